package linux_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestStopSlice(t *testing.T) {
	for _, tc := range []struct {
		name string
		exit int
		want string
	}{
		{"stopped", 0, ""},
		{"unknown to systemd", 5, ""},
		{"no answer", 1, "stop slice -a.slice: exit status 1: no bus"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >%s/args\necho no bus\nexit %d\n", dir, tc.exit)
			if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			err := linux.StopSlice(t.Context(), "-a.slice")
			if got := fmt.Sprint(err); tc.want == "" && err != nil || tc.want != "" && got != tc.want {
				t.Errorf("error is %q, want %q", got, tc.want)
			}
			args, err := os.ReadFile(filepath.Join(dir, "args"))
			if err != nil || !strings.HasSuffix(string(args), "-- -a.slice\n") {
				t.Errorf("arguments are %q, %v", args, err)
			}
		})
	}
}

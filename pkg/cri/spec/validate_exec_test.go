package spec

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestValidateExec(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		field string
	}{
		{"ok", ValidateExecSync(&runtimeapi.ExecSyncRequest{Cmd: []string{"true"}}), ""},
		{"empty", ValidateExecSync(&runtimeapi.ExecSyncRequest{}), "cmd"},
		{"empty name", ValidateExec([]string{""}), "cmd"},
		{"NUL", ValidateExec([]string{"a\x00"}), "cmd"},
		{"not text", ValidateExec([]string{"a", "\xff"}), "cmd"},
		{"long", ValidateExec([]string{strings.Repeat("a", 2<<20)}), "cmd"},
		{"timeout", ValidateExecSync(&runtimeapi.ExecSyncRequest{Cmd: []string{"a"}, Timeout: -1}), "timeout"},
		{"stream", ValidateExecStream(&runtimeapi.ExecRequest{Cmd: []string{"a"}, Stdout: true, Tty: true}), ""},
		{"tty and stderr", ValidateExecStream(&runtimeapi.ExecRequest{Cmd: []string{"a"}, Stderr: true, Tty: true}), "stderr"},
		{"no stream", ValidateExecStream(&runtimeapi.ExecRequest{Cmd: []string{"a"}}), "stdin"},
		{"attach nothing", ValidateAttach(&runtimeapi.AttachRequest{}), "stdin"},
		{"attach", ValidateAttach(&runtimeapi.AttachRequest{Stdin: true}), ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if tc.field == "" {
				must(t, tc.err)
				return
			}
			wantInvalid(t, tc.err, tc.field)
		})
	}
}

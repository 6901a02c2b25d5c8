package crilog_test

import (
	"strings"
	"testing"

	"github.com/cri-node/cri-node/test/e2e/crilog"
)

const stamp = "2026-01-02T03:04:05.000000006Z "

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text, stdout string
		bad                bool
	}{
		{"empty", "", "", false},
		{"lines", stamp + "stdout F a\n" + stamp + "stderr F b\n" + stamp + "stdout F \n", "a\n\n", false},
		{"partial", stamp + "stdout P a\n" + stamp + "stdout F b\n", "ab\n", false},
		{"no newline at end", stamp + "stdout F a", "", true},
		{"three fields", stamp + "stdout F\n", "", true},
		{"stream", stamp + "stdin F a\n", "", true},
		{"tag", stamp + "stdout X a\n", "", true},
		{"time", "yesterday stdout F a\n", "", true},
		{"long", stamp + "stdout F " + strings.Repeat("a", 20000) + "\n", "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			entries, err := crilog.Parse(tc.text)
			if (err != nil) != tc.bad {
				t.Fatalf("error is %v", err)
			}
			if got := crilog.Text(entries, "stdout"); err == nil && got != tc.stdout {
				t.Fatalf("stdout is %q, want %q", got, tc.stdout)
			}
		})
	}
}

func TestContiguous(t *testing.T) {
	line := func(s string) string { return stamp + "stdout F " + s + "\n" }
	for _, tc := range []struct {
		name, text string
		last       int
		bad        bool
	}{
		{"whole", line("out 00000001") + line("other") + line("out 00000002"), 2, false},
		{"gap", line("out 00000001") + line("out 00000003"), 1, true},
		{"twice", line("out 00000001") + line("out 00000001"), 1, true},
		{"torn", line("out 00000001") + line("out"), 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			entries, err := crilog.Parse(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			last, err := crilog.Contiguous(entries, "stdout", "out ")
			if (err != nil) != tc.bad || last != tc.last {
				t.Fatalf("last is %d, error %v", last, err)
			}
		})
	}
}

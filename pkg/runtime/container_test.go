package runtime

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

func TestDescribe(t *testing.T) {
	for name, test := range map[string]struct {
		exit   monitor.Exit
		code   int
		reason string
	}{
		"completed":      {monitor.Exit{}, 0, ReasonCompleted},
		"error":          {monitor.Exit{Code: 3}, 3, ReasonError},
		"killed":         {monitor.Exit{Code: 137, Signal: 9}, 137, ReasonError},
		"oom":            {monitor.Exit{Code: 137, Signal: 9, OOMKilled: true}, 137, ReasonOOMKilled},
		"oom of a child": {monitor.Exit{Code: 1, OOMKilled: true}, 1, ReasonOOMKilled},
		"lost":           {monitor.Exit{Code: 255, Lost: true}, 255, ReasonExitCodeLost},
		"lost is not 0":  {monitor.Exit{Code: 0, Lost: true}, 255, ReasonExitCodeLost},
		"log incomplete": {monitor.Exit{Code: 0, LogBytesDropped: 5, LogError: "no space"}, 0, ReasonCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			code, reason, message := describe(test.exit)
			if code != test.code || reason != test.reason {
				t.Fatalf("got %d, %s", code, reason)
			}
			if test.exit.LogBytesDropped > 0 && !strings.Contains(message, "no space") {
				t.Fatalf("message %q does not say why output is missing", message)
			}
		})
	}
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"": unix.SIGTERM, "SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "9": unix.SIGKILL, "SIGQUIT": unix.SIGQUIT,
		"SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX": 64, "SIGRTMAX-1": 63,
	} {
		if got, err := parseSignal(name); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"SIGFOO", "0", "65", "-9", "SIGRTMIN+99", "SIGRTMAX-x"} {
		if got, err := parseSignal(name); err == nil {
			t.Errorf("parseSignal(%q) = %v", name, got)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
)

// run executes a command line and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.Execute()
	return out.String(), err
}

// TestHelpWithoutCommand: a person who types the name alone does not become the
// owner of a daemon.
func TestHelpWithoutCommand(t *testing.T) {
	if out, err := run(t); err != nil || !strings.Contains(out, "cri-node run -it") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestConfigCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("root = '/srv/cri-node'\n[log]\nlevel = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, err := run(t, "config", "default")
	if err != nil || !strings.Contains(printed, "\n[runtime.handlers]\n") {
		t.Errorf("config default: %v\n%s", err, printed)
	}
	dump, err := run(t, "config", "dump", "--config", file, "--state", "/run/other", "--log-level", "5")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"root = '/srv/cri-node'", "state = '/run/other'", "listen = 'unix:///run/other/cri.sock'", "level = 5"} {
		if !strings.Contains(dump, want) {
			t.Errorf("dump lacks %s:\n%s", want, dump)
		}
	}
}

func TestConfigCheckNamesTheMistake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("\nrooot = '/srv'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := run(t, "config", "check", "--config", file)
	if err == nil || !strings.Contains(err.Error(), file+":2: rooot: unknown key") {
		t.Errorf("error is %v", err)
	}
}

func TestUnknownCommandsAndFlags(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"serve", "more"}, {"--nonsense"}, {"config", "nonsense"}, {"serve", "--config", "/nowhere/config.toml"}} {
		if _, err := run(t, args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := run(t, "version")
	if err != nil || !strings.HasPrefix(out, "cri-node ") {
		t.Errorf("%q, %v", out, err)
	}
}

// What the monitor and short commands need must come before the libraries of
// the daemon are initialised: the whole program takes 10 ms for it, and memory
// that a monitor would keep.
func TestEarlyCommandsComeBeforeTheLibraries(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"monitor", "--dir", "relative"}} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, err := cmd.CombinedOutput()
		if failed := err != nil; failed != (args[0] == "monitor") {
			t.Errorf("%q: %v", args, err)
		}
		if !strings.Contains(string(out), "init os @") {
			t.Fatalf("no trace of initialisation:\n%s", out)
		}
		for _, late := range []string{"google.golang.org/grpc", "k8s.io/cri-api", "net/http", "github.com/prometheus/client_golang/prometheus"} {
			if strings.Contains(string(out), "init "+late+" @") {
				t.Errorf("%q comes after %s", args, late)
			}
		}
	}
}

func TestLoggerLevels(t *testing.T) {
	for _, format := range []string{config.FormatText, config.FormatJSON} {
		t.Run(format, func(t *testing.T) {
			defer klog.ClearLogger()
			var out bytes.Buffer
			logger, setLevel := newLogger(&out, config.Log{Level: 2, Format: format})
			ctx := klog.NewContext(context.Background(), logger)
			says := func(level int) bool {
				out.Reset()
				klog.FromContext(ctx).WithValues("sandboxID", "abc").V(level).Info("Hello", "n", 1)
				return strings.Contains(out.String(), "Hello") && strings.Contains(out.String(), "abc")
			}
			if !says(2) || says(3) {
				t.Error("level 2 does not mean V(2)")
			}
			if err := setLevel(4); err != nil {
				t.Fatal(err)
			}
			if !says(4) || says(5) {
				t.Error("level 4, set later, does not mean V(4)")
			}
			if err := setLevel(0); err != nil {
				t.Fatal(err)
			}
			if says(1) || !says(0) {
				t.Error("level 0, set later, does not mean V(0)")
			}
			out.Reset()
			logger.Error(os.ErrNotExist, "Failed")
			if format == config.FormatJSON {
				var entry map[string]any
				if err := json.Unmarshal(out.Bytes(), &entry); err != nil || entry["level"] != "ERROR" {
					t.Errorf("%v: %s", err, out.String())
				}
			}
		})
	}
}

package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/manual"
)

func root() *cobra.Command {
	r := &cobra.Command{Use: "cri-node", SilenceErrors: true, RunE: func(*cobra.Command, []string) error { return nil }}
	AddCommands(r)
	return r
}

// execute runs a command line.
func execute(args ...string) (out string, err error) {
	r := root()
	var b bytes.Buffer
	r.SetOut(&b)
	r.SetErr(&b)
	r.SetArgs(args)
	err = r.Execute()
	return b.String(), err
}

func TestSuggestions(t *testing.T) {
	for line, want := range map[string]string{
		"sotp web":        `Did you mean "cri-node stop"`,
		"imagse":          `"cri-node images"`,
		"delete":          `"cri-node rm"`,
		"container lss":   `"cri-node container ls"`,
		"volume creaet x": `"cri-node volume create"`,
		"zzzzzz":          `is no command of cri-node`,
	} {
		_, err := execute(strings.Fields(line)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	if _, err := execute(); err != nil {
		t.Errorf("no verb: %v", err)
	}
}

func TestUsageErrors(t *testing.T) {
	for line, code := range map[string]int{
		"ps --surprise": 125, "run --surprise x": 125, "run --link a:b x": 125, "container ls --surprise": 125,
	} {
		_, err := execute(strings.Fields(line)...)
		if exit, ok := err.(*client.ExitError); !ok || exit.Code != code || exit.Err == nil { //nolint:errorlint // it is not wrapped
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, line := range []string{"rm", "run", "exec web", "rename a", "cp a", "ps x", "wait", "port"} {
		if _, err := execute(strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), "--help") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// verbs are all commands that people see.
func verbs(c *cobra.Command, all []*cobra.Command) []*cobra.Command {
	for _, below := range c.Commands() {
		if below.Hidden || below.Name() == "help" || below.Name() == "completion" {
			continue
		}
		all = verbs(below, append(all, below))
	}
	return all
}

// TestHelp: each verb says what it does in a line, and those that can be run have
// an example that begins with themselves.
func TestHelp(t *testing.T) {
	for _, c := range verbs(root(), nil) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its line is %q", c.CommandPath(), c.Short)
		}
		if c.HasSubCommands() {
			continue
		}
		if !strings.Contains(c.Example, "cri-node ") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if out, err := execute(append(strings.Fields(c.CommandPath())[1:], "--help")...); err != nil || !strings.Contains(out, "Usage:") {
			t.Errorf("%s --help: %v", c.CommandPath(), err)
		}
	}
}

func TestGroups(t *testing.T) {
	for _, c := range root().Commands() {
		if c.GroupID == "" && !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			t.Errorf("%s is in no group of the help", c.Name())
		}
	}
}

func TestManual(t *testing.T) {
	r := root()
	run, _, err := r.Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	page := string(manual.Page(run))
	for _, want := range []string{".TH \"CRI-NODE-RUN\" 1", ".SH NAME\ncri\\-node\\-run", "\\-\\-publish", ".SH EXAMPLES", "\\fBcri\\-node\\fP(1)"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of run has no %q", want)
		}
	}
	if err := manual.Write(r, t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, err := execute("completion", shell); err != nil || !strings.Contains(out, "cri-node") {
			t.Errorf("%s: %v", shell, err)
		}
	}
	if out, err := execute("__complete", "run", "--pull", ""); err != nil || !strings.Contains(out, "missing") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := execute("__complete", "sto"); err != nil || !strings.Contains(out, "stop") {
		t.Errorf("%q, %v", out, err)
	}
}

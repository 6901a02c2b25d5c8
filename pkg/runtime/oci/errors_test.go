package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestExplain(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	old := `{"level":"error","msg":"of an earlier run"}` + "\n"
	lines := old +
		`{"level":"warning","msg":"not this"}` + "\n" +
		"no JSON\n" +
		`{"level":"error","msg":"first"}` + "\n" +
		`{"level":"error","msg":"exec: \"nope\": not found\nin $PATH\u001b[31m"}` + "\n"
	if err := os.WriteFile(log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := Explain(log, int64(len(old)), "stderr"), `exec: "nope": not found in $PATH[31m`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, test := range map[string]struct{ stderr, want string }{
		"stderr":    {" boom\n", "boom"},
		"control":   {"a\x00b\x1bc\td", "abc d"},
		"not UTF-8": {"a\xffb", "a?b"},
	} {
		if got := Explain(log, int64(len(lines)), test.stderr); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	long := Explain(filepath.Join(t.TempDir(), "none"), 0, strings.Repeat("ä", maxMessage))
	if len(long) > maxMessage+4 || !utf8.ValidString(long) {
		t.Errorf("%d bytes, valid %v", len(long), utf8.ValidString(long))
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var w tail
	for range 3 {
		if n, err := w.Write([]byte(strings.Repeat("x", maxMessage))); n != maxMessage || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := w.Write([]byte("end")); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); len(got) != maxMessage || !strings.HasSuffix(got, "xend") {
		t.Fatalf("%d bytes ending in %q", len(got), got[len(got)-4:])
	}
}

func TestKillExecWithoutProcess(t *testing.T) {
	dir := t.TempDir()
	if err := KillExec(PidFile(dir)); err != nil {
		t.Errorf("no pid file: %v", err)
	}
	// The pid file of an old exec whose number a process of today has: this
	// test's own, which must survive.
	if err := os.WriteFile(PidFile(dir), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	past := bootTime(t)
	if err := os.Chtimes(PidFile(dir), past, past); err != nil {
		t.Fatal(err)
	}
	if err := KillExec(PidFile(dir)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(PidFile(dir), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := KillExec(PidFile(dir)); err == nil {
		t.Error("junk was taken for a pid")
	}
}

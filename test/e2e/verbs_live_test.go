package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVerbsStatsLive: on a terminal the table is drawn anew each second, until
// ctrl-C.
func TestVerbsStatsLive(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-d", "--name", "busy", "-m", "64m", "IMAGE", "sh", "-c", "while :; do :; done")
	v.ok("run", "-d", "--name", "idle", "IMAGE", "sleep", "1000")
	s := v.open("stats", "busy", "idle")
	row := regexp.MustCompile(`busy +([0-9.]+)% +[0-9.]+[KM]iB / 64MiB +[0-9.]+% `)
	const top, end = "\x1b[H", "\x1b[J" // what a table begins and ends with
	v.waitFor("three tables", func() bool { return strings.Count(s.text(0), end) >= 3 })
	for table := range strings.SplitSeq(s.text(0), top) {
		if !strings.HasSuffix(table, end) {
			continue // not all of it was there
		}
		if !strings.HasPrefix(table, "CONTAINER ID") || !row.MatchString(table) || !strings.Contains(table, "idle") {
			t.Errorf("a table is %q", table)
		}
	}
	v.waitFor("the share of a CPU", func() bool {
		m := row.FindAllStringSubmatch(s.text(0), -1)
		return len(m) > 0 && len(m[len(m)-1][1]) >= len("10.00")
	})
	// One more comes, and goes.
	v.ok("rm", "-f", "idle")
	s.send("\x03")
	s.code()
	all := v.open("stats")
	all.expect("busy")
	v.ok("run", "-d", "--name", "late", "IMAGE", "sleep", "1000")
	all.expect("late")
	v.ok("rm", "-f", "late")
	v.waitFor("a table without it", func() bool {
		text := all.text(0)
		last := text[strings.LastIndex(text, top)+1:]
		return strings.Contains(last, "busy") && !strings.Contains(last, "late")
	})
	all.send("\x03")
	all.code()
}

// TestVerbsCopyUserns: files in and out of a container with ids of its own belong
// to whom they belong to inside, whether it runs or not.
func TestVerbsCopyUserns(t *testing.T) {
	v := onVerbs(t)
	file := filepath.Join(t.TempDir(), "file")
	v.must(os.WriteFile(file, []byte("from outside\n"), 0o640))
	v.ok("run", "-d", "--name", "mapped", "--userns", "auto", "IMAGE", "sleep", "1000")
	v.ok("create", "--name", "sleeping", "--userns", "auto", "IMAGE", "sleep", "1000")
	for _, name := range []string{"mapped", "sleeping"} {
		v.ok("cp", file, name+":/tmp/file")
		if name == "sleeping" {
			v.ok("start", name)
		}
		equal(v.env, name, v.ok("exec", name, "sh", "-c", "stat -c '%u %g %a' /tmp/file; cat /tmp/file"), "0 0 640\nfrom outside")
		v.ok("exec", name, "sh", "-c", "mkdir -p /d/sub && echo inside >/d/sub/own && chown 5:6 /d/sub/own")
		back := t.TempDir()
		v.ok("cp", name+":/d/sub", back)
		text, err := os.ReadFile(filepath.Join(back, "sub", "own"))
		if err != nil || string(text) != "inside\n" {
			t.Errorf("%s: %q %v", name, text, err)
		}
		// A copy with its owners, over a tar.
		tar := v.run("cp", "-a", name+":/d/sub", "-")
		v.ok("exec", name, "mkdir", "/copy")
		if got := v.pipe(tar.out, "cp", "-a", "-", name+":/copy"); got.code != 0 {
			t.Errorf("%s: %s", name, got.err)
		}
		equal(v.env, name, v.ok("exec", name, "stat", "-c", "%u %g", "/copy/sub/own"), "5 6")
	}
}

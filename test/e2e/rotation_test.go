package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// talker writes 3000 lines, a little at a time, and then sleeps.
const talker = `i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo "line $i"; [ $((i%100)) -ne 0 ] || sleep 0.5; done; exec sleep 1000`

// consecutive fails unless lines count on from the first to 3000, and returns how
// many there are.
func consecutive(v *verbs, what, text string) int {
	v.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	first := 3000 - len(lines) + 1
	for i, line := range lines {
		if want := fmt.Sprintf("line %d", first+i); line != want {
			v.Errorf("%s: %q where %q is to be", what, line, want)
			break
		}
	}
	return len(lines)
}

// TestLogRotation: the log of a container that talks much is bounded, no line of
// what is kept is lost or doubled, and one who follows sees them all.
func TestLogRotation(t *testing.T) {
	v := onVerbs(t)
	id := v.ok("run", "-d", "--name", "talker", "--log-opt", "max-size=16k", "--log-opt", "max-file=3", "IMAGE", "sh", "-c", talker)
	other := v.ok("run", "-d", "--name", "unbounded", "--log-opt", "max-size=-1", "IMAGE", "sh", "-c", talker)
	follower := v.open("logs", "-f", "talker")
	files := func(id string) []string {
		all, err := filepath.Glob(filepath.Join(v.node.Root, "node", "logs", id+".log*"))
		v.must(err)
		return all
	}
	follower.expect("line 3000\r\n")
	equal(v.env, "lines that the follower has", consecutive(v, "follower", strings.ReplaceAll(follower.text(0), "\r", "")), 3000)
	v.waitFor("rotation", func() bool { return len(files(id)) == 3 && consecutive(v, "logs", v.ok("logs", "talker")) < 3000 })
	size := int64(0)
	for _, f := range files(id) {
		info, err := os.Stat(f)
		v.must(err)
		size += info.Size()
	}
	kept := consecutive(v, "logs", v.ok("logs", "talker"))
	if kept == 3000 || size > 100<<10 {
		t.Errorf("%d lines and %d bytes are kept, with 3 files of 16 KiB", kept, size)
	}
	// Across the files.
	consecutive(v, "the last lines", v.ok("logs", "--tail", fmt.Sprint(kept-1), "talker"))
	v.eventually("line 3000", "logs", "--tail", "1", "unbounded")
	equal(v.env, "lines without a bound", consecutive(v, "logs", v.ok("logs", "unbounded")), 3000)
	equal(v.env, "files without a bound", len(files(other)), 1)

	// The log goes on after a stop and a start.
	v.ok("restart", "-t", "0", "talker")
	time.Sleep(100 * time.Millisecond)
	contains(v.env, "after a restart", v.ok("logs", "talker"), "line 3000\nline 1\n")
	v.ok("rm", "-f", "talker", "unbounded")
	if left := append(files(id), files(other)...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for option, want := range map[string]string{"max-size=1x": "max-size", "max-file=0": "max-file", "max-size=0": "max-size"} {
		if got := v.run("run", "--rm", "--log-opt", option, "IMAGE", "true"); got.code != 125 || !strings.Contains(got.err, want) {
			t.Errorf("%s: %d %s", option, got.code, got.err)
		}
	}
	if got := v.run("run", "--rm", "--log-opt", "mode=blocking", "IMAGE", "true"); got.code != 0 || !strings.Contains(got.err, "mode=blocking is ignored") {
		t.Errorf("an option that is not known: %d %s", got.code, got.err)
	}
}

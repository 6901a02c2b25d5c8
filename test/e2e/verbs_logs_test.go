package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerbsLogBound: a container that writes without end has a log of so many
// files of so many bytes, and its end can be read.
func TestVerbsLogBound(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-d", "--name", "talk", "--log-opt", "max-size=100k", "--log-opt", "max-file=2", "IMAGE", "sh", "-c",
		"i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i of many; done; echo last; sleep 1000")
	path := v.ok("inspect", "-f", "{{.LogPath}}", "talk")
	if got := v.ok("inspect", "-f", "{{json .HostConfig.LogConfig.Config}}", "talk"); got != `{"max-file":"2","max-size":"102400"}` {
		t.Errorf("inspect says %s", got)
	}
	v.eventually("last", "logs", "--tail", "1", "talk")
	files := func() []string {
		all, err := filepath.Glob(path + "*")
		v.must(err)
		return all
	}
	v.waitFor("the log to begin a new file", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() < 100<<10 && len(files()) == 2
	})
	if got := v.ok("logs", "talk"); !strings.HasSuffix(got, "line 100000 of many\nlast") {
		t.Errorf("the log ends with %q", got[max(0, len(got)-100):])
	}
	v.ok("rm", "-f", "talk")
	if left := files(); len(left) > 0 {
		t.Errorf("the container is gone and has left %v", left)
	}
}

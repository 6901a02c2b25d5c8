package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writeKills makes a cgroup of version 2 that counts kills.
func writeKills(t *testing.T, dir string, kills int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("low 0\nhigh 0\nmax 7\noom 1\noom_kill %d\noom_group_kill 0\n", kills)
	if err := os.WriteFile(filepath.Join(dir, memoryEvents), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// watched is a container in a cgroup of that name below a pod's.
func watched(t *testing.T, m *server, pod, id string) *container {
	t.Helper()
	dir := filepath.Join(pod, id)
	writeKills(t, dir, 0)
	j, err := openJournal(filepath.Join(t.TempDir(), journalName), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.close() })
	events, err := os.Open(filepath.Join(dir, memoryEvents))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = events.Close() })
	c := newContainer(m, containerRecord{ID: id, Cgroup: Cgroup{Unified: dir}})
	c.journal = j
	c.oom = &oomWatch{events: events, parent: pod}
	m.containers[id] = c
	return c
}

func TestOOMKilled(t *testing.T) {
	const sigkill, zero = unix.WaitStatus(unix.SIGKILL), unix.WaitStatus(0)
	for name, tc := range map[string]struct {
		status     unix.WaitStatus
		own, pod   int
		noticed    bool // the kernel's notice came
		gone       bool // systemd has removed the cgroup
		byNeighbor bool // whose kill was seen
		want       bool
	}{
		"ended":                           {status: zero},
		"killed by somebody":              {status: sigkill, gone: true},
		"counted":                         {status: sigkill, own: 1, pod: 1, want: true},
		"a child":                         {status: zero, own: 1, pod: 1, want: true},
		"noticed":                         {status: sigkill, own: 1, pod: 1, noticed: true, gone: true, want: true},
		"noticed, a child":                {status: zero, own: 1, pod: 1, noticed: true, gone: true, want: true},
		"not noticed":                     {status: sigkill, own: 1, pod: 1, gone: true, want: true},
		"a neighbor's":                    {status: sigkill, pod: 1, byNeighbor: true, gone: true},
		"a neighbor's, unseen":            {status: sigkill, pod: 1},
		"a neighbor's, unseen, and ended": {status: zero, pod: 1, gone: true},
		"after a neighbor's":              {status: sigkill, own: 1, pod: 2, byNeighbor: true, gone: true, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &server{containers: map[string]*container{}}
			pod := t.TempDir()
			writeKills(t, pod, 0)
			c, neighbor := watched(t, m, pod, "c"), watched(t, m, pod, "neighbor")
			if tc.byNeighbor {
				writeKills(t, pod, 1)
				writeKills(t, neighbor.record.Cgroup.Unified, 1)
				m.oomNotice(neighbor.oom)
			}
			writeKills(t, pod, tc.pod)
			writeKills(t, c.record.Cgroup.Unified, tc.own)
			if tc.noticed {
				m.oomNotice(c.oom)
			}
			if tc.gone {
				if err := os.RemoveAll(c.record.Cgroup.Unified); err != nil {
					t.Fatal(err)
				}
			}
			c.journal.setExit(tc.status, time.Now())
			if got := c.oomKilled(); got != tc.want {
				t.Errorf("killed for want of memory: %v", got)
			}
		})
	}
}

func TestLooksKilled(t *testing.T) {
	for status, want := range map[unix.WaitStatus]bool{
		0:                             false,
		unix.WaitStatus(unix.SIGKILL): true,
		unix.WaitStatus(unix.SIGTERM): false,
		137 << 8:                      true, // sh, whose child was
		1 << 8:                        false,
	} {
		if got := looksKilled(status); got != want {
			t.Errorf("%#x: %v", status, got)
		}
	}
}

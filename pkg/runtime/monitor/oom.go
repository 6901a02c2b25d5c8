package monitor

import (
	"os"
	"sort"
	"strconv"
	"strings"
)

// oomAdj keeps the monitor from being chosen by the out-of-memory killer, and
// its children from inheriting that.
type oomAdj struct{ original, current int }

const (
	oomPath = "/proc/self/oom_score_adj"
	// -1000 would exempt the monitor for ever, even if it leaked.
	oomTarget = -999
)

// lower sets oom_score_adj as low as the machine allows: without
// CAP_SYS_RESOURCE there is a floor, which no file tells.
func (o *oomAdj) lower() {
	b, err := os.ReadFile(oomPath)
	if err != nil {
		return
	}
	o.original, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return
	}
	o.current = o.original
	sort.Search(o.original-oomTarget, func(i int) bool {
		if writeOOM(oomPath, oomTarget+i) != nil {
			return false
		}
		o.current = oomTarget + i
		return true
	})
}

// reset gives a child the value that the monitor was started with.
func (o *oomAdj) reset(pid int) {
	if o.current != o.original {
		// A child that is gone, or cannot be raised, has no use for it.
		_ = writeOOM("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", o.original)
	}
}

func writeOOM(path string, value int) error {
	return os.WriteFile(path, []byte(strconv.Itoa(value)), 0)
}

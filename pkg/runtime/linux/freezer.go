package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// errNoFreezer means that a cgroup's processes cannot be stopped.
var errNoFreezer = errors.New("the freezer controller is not mounted")

// Freeze stops every process of a cgroup and returns when all have stopped.
// On an error the cgroup is thawed again. See Thaw.
func (c *Cgroups) Freeze(ctx context.Context, cgroup string) error {
	if path.Clean("/"+cgroup) == "/" {
		return fmt.Errorf("freeze cgroup %q: it is the root", cgroup)
	}
	if err := c.setFrozen(cgroup, true); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", cgroup, err)
	}
	wait := time.NewTimer(0)
	defer wait.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		frozen, err := c.frozen(cgroup)
		if err != nil {
			return errors.Join(fmt.Errorf("freeze cgroup %s: %w", cgroup, err), c.Thaw(cgroup))
		}
		if frozen {
			return nil
		}
		wait.Reset(pause)
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("freeze cgroup %s: %w", cgroup, context.Cause(ctx)), c.Thaw(cgroup))
		case <-wait.C:
		}
	}
}

// Thaw lets the processes of a cgroup go on. One that is not frozen, or not
// there, is a success.
func (c *Cgroups) Thaw(cgroup string) error {
	err := c.setFrozen(cgroup, false)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errNoFreezer) {
		return fmt.Errorf("thaw cgroup %s: %w", cgroup, err)
	}
	return nil
}

// Frozen reports whether the processes of a cgroup have been, or are being,
// stopped. Of a cgroup that is not there nothing is.
func (c *Cgroups) Frozen(cgroup string) (bool, error) {
	file := filepath.Join(c.dir("freezer", cgroup), "freezer.state")
	if c.unified {
		file = filepath.Join(c.dir("", cgroup), "cgroup.freeze")
	} else if !c.HasController("freezer") {
		return false, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false, ignoreNotExist(err)
	}
	state := strings.TrimSpace(string(b))
	return state != "THAWED" && state != "0", nil
}

func (c *Cgroups) setFrozen(cgroup string, frozen bool) error {
	if c.unified {
		value := "0"
		if frozen {
			value = "1"
		}
		return writeControl(filepath.Join(c.dir("", cgroup), "cgroup.freeze"), value)
	}
	if !c.HasController("freezer") {
		return errNoFreezer
	}
	value := "THAWED"
	if frozen {
		value = "FROZEN"
	}
	return writeControl(filepath.Join(c.dir("freezer", cgroup), "freezer.state"), value)
}

func (c *Cgroups) frozen(cgroup string) (bool, error) {
	if c.unified {
		b, err := os.ReadFile(filepath.Join(c.dir("", cgroup), "cgroup.events"))
		return bytes.Contains(b, []byte("frozen 1")), err
	}
	// Reading the state is what makes the v1 freezer look whether it is done;
	// a process that forks meanwhile needs to be told again.
	b, err := os.ReadFile(filepath.Join(c.dir("freezer", cgroup), "freezer.state"))
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(b)) == "FROZEN" {
		return true, nil
	}
	return false, c.setFrozen(cgroup, true)
}

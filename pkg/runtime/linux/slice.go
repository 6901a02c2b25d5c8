package linux

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// noSuchUnit is how systemctl exits for a unit that systemd does not know.
const noSuchUnit = 5

// StopSlice makes systemd forget a slice that it has started by itself, for a
// scope inside: it keeps such a unit as active for ever, even without its
// cgroup. It does not wait for systemd; a slice it does not know is a success.
func StopSlice(ctx context.Context, unit string) error {
	cmd := exec.CommandContext(ctx, "systemctl", "stop", "--no-block", "--quiet", "--", unit)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noSuchUnit {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop slice %s: %w: %.500s", unit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

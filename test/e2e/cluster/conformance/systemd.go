package conformance

import (
	_ "embed"
	"os"
	"path/filepath"
)

//go:embed systemd.sh
var systemdStandIn []byte

// StandInForSystemd puts into an empty directory the programs by which the suite
// of a node starts and restarts kubelet, for a machine without systemd.
func StandInForSystemd(dir string) error {
	program := filepath.Join(dir, "stand-in")
	if err := os.WriteFile(program, systemdStandIn, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sudo", "systemctl", "systemd-run"} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

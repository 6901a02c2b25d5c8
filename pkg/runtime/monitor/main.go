package monitor

import "errors"

// Main is the monitor process: `cri-node monitor --dir DIR`.
func Main(args []string) error { return errors.New("not built yet") }

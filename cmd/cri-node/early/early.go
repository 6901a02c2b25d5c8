package early

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/cri-node/cri-node/pkg/runtime/monitor"
)

// Version is set by the Makefile through the linker.
var Version = "0.1.0-dev"

// startPercent is how much the heap may grow between collections until serve and
// monitor say what they want: what is made while the program is initialised
// stays, so that to collect in the middle of it finds nothing and takes
// milliseconds; and a command ends soon.
const startPercent = 400

// What runs before the rest of the program is initialised: see the package's
// documentation for why, and for what may be here.
func init() { //nolint:gochecknoinits // it is the point of this package
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(startPercent)
	}
	if len(os.Args) < 2 {
		return
	}
	switch command, args := os.Args[1], os.Args[2:]; {
	case command == "monitor":
		exit(monitor.Main(args))
	case command == "version" && len(args) == 0:
		exit(WriteVersion(os.Stdout))
	}
}

// exit ends the process, with 0 where err is nil.
func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "cri-node: %v\n", err)
	os.Exit(1)
}

// WriteVersion writes what `cri-node version` prints.
func WriteVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "cri-node %s%s %s %s/%s\n", Version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// revision is " (COMMIT)" where the build knows it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return " (" + s.Value + ")"
		}
	}
	return ""
}

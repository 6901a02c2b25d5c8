package spec

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Signal is a stop signal in the two forms that it is needed in. Records should
// keep numbers: CRI renamed its names once.
type Signal struct {
	Number unix.Signal
	CRI    runtimeapi.Signal
}

// Name is the signal's name, "SIGTERM" or "SIGRTMIN+3".
func (s Signal) Name() string {
	if s.Number >= sigRTMin {
		return realtimeName(int(s.Number))
	}
	return unix.SignalName(s.Number)
}

// Realtime signals as the C library of the container counts them, which keeps
// the kernel's first two for itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads the forms that images have: "SIGTERM", "term", "15",
// "SIGRTMIN+3", "RTMAX-1".
func ParseSignal(s string) (Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && isDecimal(s) {
		return signalByNumber(n)
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return signalByNumber(int(n))
	}
	for n := sigRTMin; n <= sigRTMax; n++ {
		if name == fmt.Sprintf("RTMIN+%d", n-sigRTMin) || name == fmt.Sprintf("RTMAX-%d", sigRTMax-n) {
			return signalByNumber(n)
		}
	}
	switch name {
	case "RTMIN":
		return signalByNumber(sigRTMin)
	case "RTMAX":
		return signalByNumber(sigRTMax)
	}
	return Signal{}, invalid("stop signal", "%s is no signal", quote(s))
}

// signalByNumber finds the first CRI name of a number; some have two.
func signalByNumber(n int) (Signal, error) {
	for v := int32(1); v <= int32(runtimeapi.Signal_SIGNAL_SIGRTMAX); v++ {
		if number, ok := criSignalNumber(runtimeapi.Signal(v)); ok && int(number) == n {
			return Signal{Number: number, CRI: runtimeapi.Signal(v)}, nil
		}
	}
	return Signal{}, invalid("stop signal", "%d is no signal", n)
}

// criSignalNumber translates CRI's enumeration, which is in alphabetical order.
func criSignalNumber(s runtimeapi.Signal) (unix.Signal, bool) {
	if s >= runtimeapi.Signal_SIGNAL_SIGRTMIN && s <= runtimeapi.Signal_SIGNAL_SIGRTMAX {
		// CRI leaves out none: 35 is SIGRTMIN, 34, and so on to 65, 64.
		return unix.Signal(int32(s) - 1), true
	}
	name := strings.TrimPrefix(s.String(), "SIGNAL_")
	// Names of one number that the table of x/sys knows by the other.
	switch name {
	case "SIGCLD":
		name = "SIGCHLD"
	case "SIGPOLL":
		name = "SIGIO"
	case "SIGIOT":
		name = "SIGABRT"
	}
	n := unix.SignalNum(name)
	return n, n != 0
}

// realtimeName names a realtime signal from the nearer end, as kill(1) does.
func realtimeName(n int) string {
	switch {
	case n == sigRTMin:
		return "SIGRTMIN"
	case n == sigRTMax:
		return "SIGRTMAX"
	case n-sigRTMin <= (sigRTMax-sigRTMin)/2:
		return fmt.Sprintf("SIGRTMIN+%d", n-sigRTMin)
	default:
		return fmt.Sprintf("SIGRTMAX-%d", sigRTMax-n)
	}
}

// setStopSignal takes the request's, else the image's, else SIGTERM.
func (b *builder) setStopSignal(context.Context) error {
	if name := b.in.Extras.StopSignal; name != "" {
		s, err := ParseSignal(name)
		if err != nil {
			return err
		}
		b.out.StopSignal = s
		return nil
	}
	if s := b.cfg.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		n, ok := criSignalNumber(s)
		if !ok {
			return invalid("config.stop_signal", "%d is no signal", s)
		}
		b.out.StopSignal = Signal{Number: n, CRI: s}
		return nil
	}
	name := b.image.Config.StopSignal
	if name == "" {
		name = "SIGTERM"
	}
	s, err := ParseSignal(name)
	if err != nil {
		return fmt.Errorf("image config.StopSignal: %w", err)
	}
	b.out.StopSignal = s
	return nil
}

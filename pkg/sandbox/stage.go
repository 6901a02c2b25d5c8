package sandbox

import (
	"fmt"
	"strings"
	"time"
)

// Stage is a part of Create, Stop or Remove. Each is told to the listener of
// pkg/progress in the context, if there is one.
type Stage string

// The stages of Create, in order; those of Stop and Remove are the same, from the
// network on backwards.
const (
	StageNamespaces Stage = "namespaces" // tmpfs, unshare, sysctls, pins
	StageFiles      Stage = "files"      // resolv.conf, hostname, /dev/shm
	StageNetwork    Stage = "network"    // CNI ADD, hosts
)

// StageTime is how long a stage took, or has taken when it failed.
type StageTime struct {
	Stage   Stage
	Elapsed time.Duration
}

// StageError is an error of Create that tells where the time of the call went.
type StageError struct {
	ID    string
	Stage Stage
	// Times has the finished stages and, last, the one that failed.
	Times []StageTime
	Err   error
}

// Error names the stage first: it is what a reader of a timeout looks for.
func (e *StageError) Error() string {
	var times strings.Builder
	for i, t := range e.Times {
		if i > 0 {
			times.WriteString(", ")
		}
		fmt.Fprintf(&times, "%s %s", t.Stage, t.Elapsed.Round(10*time.Microsecond))
	}
	return fmt.Sprintf("create sandbox %s: stage %s (%s): %v", e.ID, e.Stage, times.String(), e.Err)
}

// Unwrap returns the error of the stage.
func (e *StageError) Unwrap() error { return e.Err }

// stopwatch measures the stages of one Create.
type stopwatch struct {
	times []StageTime
	began time.Time
}

// next ends the stage before and starts s.
func (w *stopwatch) next(s Stage) {
	w.stop()
	w.times = append(w.times, StageTime{Stage: s})
	w.began = time.Now()
}

// stop ends the running stage.
func (w *stopwatch) stop() {
	if n := len(w.times); n > 0 && !w.began.IsZero() {
		w.times[n-1].Elapsed = time.Since(w.began)
		w.began = time.Time{}
	}
}

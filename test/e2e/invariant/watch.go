package invariant

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Watch remembers a node over its life, for what a single look cannot show: that
// the host is as it was, that open files and threads come back, and that the past
// of a container does not change. Its methods may be called at the same time.
type Watch struct {
	mu         sync.Mutex
	host       map[string]string
	daemon     Resources
	secrets    []string
	containers map[string]Container
	broken     []string // what containers did, once and for all
}

// NewWatch begins to watch a node that has just been started; of the host it
// compares with what Host said before.
func NewWatch(host map[string]string, c Config) (*Watch, error) {
	start, ok, err := held(c.Daemon)
	if err == nil && !ok {
		err = errors.New("the daemon does not run")
	}
	return &Watch{host: maps.Clone(host), daemon: start, containers: map[string]Container{}}, err
}

// Secrets names bytes that must be nowhere.
func (w *Watch) Secrets(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, secrets...)
}

// See takes note of what the CRI says about a container now.
func (w *Watch) See(c Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.containers[c.ID]
	if known && last == c {
		return
	}
	for _, wrong := range append(c.disordered(), c.changedFrom(last, known)...) {
		if text := fmt.Sprintf("container %s %s", c.ID, wrong); !slices.Contains(w.broken, text) {
			w.broken = append(w.broken, text)
		}
	}
	w.containers[c.ID] = c
}

// disordered says what is wrong with the times of a container.
func (c Container) disordered() []string {
	var wrong []string
	if c.StartedAt != 0 && c.StartedAt < c.CreatedAt {
		wrong = append(wrong, fmt.Sprintf("was started at %d and created at %d", c.StartedAt, c.CreatedAt))
	}
	if c.FinishedAt != 0 && c.FinishedAt < max(c.StartedAt, c.CreatedAt) {
		wrong = append(wrong, fmt.Sprintf("finished at %d, started at %d and created at %d", c.FinishedAt, c.StartedAt, c.CreatedAt))
	}
	return wrong
}

// changedFrom says what of a container's past has changed.
func (c Container) changedFrom(last Container, known bool) []string {
	if !known {
		return nil
	}
	var wrong []string
	order := map[string]int{"CREATED": 1, "RUNNING": 2, "EXITED": 3} // 0 is UNKNOWN
	if order[c.State] != 0 && order[c.State] < order[last.State] {
		wrong = append(wrong, fmt.Sprintf("was %s and is %s", last.State, c.State))
	}
	if c.CreatedAt != last.CreatedAt {
		wrong = append(wrong, fmt.Sprintf("was created at %d, and now at %d", last.CreatedAt, c.CreatedAt))
	}
	if last.State != "EXITED" {
		return wrong
	}
	if c.ExitCode != last.ExitCode || c.Reason != last.Reason {
		wrong = append(wrong, fmt.Sprintf("exited with %d %q, and now with %d %q", last.ExitCode, last.Reason, c.ExitCode, c.Reason))
	}
	if c.StartedAt != last.StartedAt || c.FinishedAt != last.FinishedAt {
		wrong = append(wrong, fmt.Sprintf("ran from %d to %d, and now from %d to %d", last.StartedAt, last.FinishedAt, c.StartedAt, c.FinishedAt))
	}
	return wrong
}

// Check returns what is wrong with a quiet node in the light of its past.
func (w *Watch) Check(c Config, facts []Fact, v View) ([]string, error) {
	for _, one := range v.Containers {
		w.See(one)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := slices.Clone(w.broken)
	now, err := Host()
	errs := []error{err}
	if err == nil {
		wrong = append(wrong, CheckHost(w.host, now)...)
	}
	processes := []int{}
	look := func(role string, pid int, start Resources) {
		processes = append(processes, pid)
		now, ok, err := held(pid)
		errs = append(errs, err)
		if ok {
			wrong = append(wrong, CheckResources(role, start, now, v)...)
		}
	}
	if c.Daemon != 0 {
		look("daemon", c.Daemon, w.daemon)
	}
	for _, f := range facts {
		if f.Kind == Monitor {
			look(Monitor, f.PID, atStart[Monitor])
		}
	}
	found, err := CheckSecrets(c, processes, w.secrets)
	return append(wrong, found...), errors.Join(append(errs, err)...)
}

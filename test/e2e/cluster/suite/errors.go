package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// runtimeError matches the lines of kubelet's log that say that a call of the CRI
// failed, or that kubelet could not make out what the runtime does.
var runtimeError = regexp.MustCompile(`(?i)^E\d{4} .*(runtime service|image service|rpc error|PLEG|container runtime|CRI |remote_(runtime|image)|sandbox|cni)`)

// expected are errors that kubelet's own behaviour causes.
var expected = []string{
	// A container is gone between kubelet's list and its look.
	`code = NotFound`,
	// A probe finds the container at its end.
	`"ExecSync cmd from runtime service failed".*(is exited, not running|ended meanwhile)`,
	// kubelet has taken its question back.
	`code = Canceled desc = context canceled`,
	// kubelet has not looked at the runtime yet when it starts.
	`Skipping pod synchronization.*(container runtime status check may not have completed yet|pleg has yet to be successful)`,
}

// ExpectKubeletError names, as a regular expression, errors of the runtime that a
// test causes on purpose.
func (c *Cluster) ExpectKubeletError(pattern string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected = append(c.expected, pattern)
}

// KubeletErrors are the errors in the log of the shared node's kubelet, since this
// run began, that name the runtime and that nobody expects.
func (c *Cluster) KubeletErrors() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(c.Logs, "kubelet-"+c.Worker.Name()+".log"))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return RuntimeErrors(string(data[min(c.logStart, int64(len(data))):]), append(expected, c.expected...)...)
}

// RuntimeErrors are the lines of kubelet's log that tell errors of the runtime, but
// for those that match one of the regular expressions.
func RuntimeErrors(log string, but ...string) ([]string, error) {
	var known []*regexp.Regexp
	for _, b := range but {
		r, err := regexp.Compile(b)
		if err != nil {
			return nil, fmt.Errorf("parse expected error: %w", err)
		}
		known = append(known, r)
	}
	var wrong []string
lines:
	for line := range strings.Lines(log) {
		if !runtimeError.MatchString(line) {
			continue
		}
		for _, k := range known {
			if k.MatchString(line) {
				continue lines
			}
		}
		wrong = append(wrong, strings.TrimSpace(line))
	}
	return wrong, nil
}

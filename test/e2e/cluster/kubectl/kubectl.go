// Package kubectl runs kubectl, as a person would, against a cluster. It keeps
// nothing on disk but kubectl's cache of what the API server can do.
package kubectl

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Kubectl is kubectl with the configuration of one user.
type Kubectl struct {
	// Path is the program, Kubeconfig the user's configuration.
	Path, Kubeconfig string
	// Cache is the directory of its cache.
	Cache string
}

// Command is kubectl with arguments, to be started by the caller.
func (k Kubectl) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.Path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig, "KUBECACHEDIR="+k.Cache)
	return cmd
}

// Run runs kubectl and returns what it wrote to standard output; the error holds
// what it wrote to standard error.
func (k Kubectl) Run(ctx context.Context, args ...string) (string, error) {
	return k.Feed(ctx, "", args...)
}

// Feed is Run with a standard input.
func (k Kubectl) Feed(ctx context.Context, input string, args ...string) (string, error) {
	cmd := k.Command(ctx, args...)
	var out, wrong bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &wrong
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, wrong.String())
	}
	return out.String(), nil
}

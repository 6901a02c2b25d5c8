package compose

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// follow starts the services and prints what their containers say until all have
// exited. The first signal stops them, the second kills them.
func follow(cmd *cobra.Command, n *client.Node, p *types.Project, converge *convergence, o upOptions, services []string) error {
	began := time.Now()
	// The signals are for this function: what they ask for takes a while.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)

	started := make(chan error, 1)
	starting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { started <- inOrder(starting, p, false, converge.service) }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-signals:
		giveUp()
		<-started //nolint:errcheck // it was given up
		return errors.Join(stopAll(ctx, n, p, converge.report, converge.timeout), &client.ExitError{Code: 130})
	}
	found, err := list(ctx, n, p.Name)
	if err != nil {
		return err
	}
	var mine []*nodev1.Container
	for _, name := range services {
		mine = append(mine, found[name]...)
	}
	printing := make(chan error, 1)
	logs := &logPrinter{node: n, out: cmd.OutOrStdout(), plain: o.noLogPrefix, timestamps: o.timestamps, follow: true, bounds: &nodev1.LogsRequest{Since: began.UnixNano()}}
	go func() { printing <- logs.print(ctx, mine) }()
	var first *exited
	if o.abortOnExit {
		ended := make(chan *exited, 1)
		go func() { ended <- awaitExit(ctx, n, mine) }()
		select {
		case first = <-ended:
		case <-signals:
			return interrupted(ctx, n, p, converge, signals, printing)
		}
		if err := stopAll(ctx, n, p, converge.report, converge.timeout); err != nil {
			return err
		}
	}
	// A container that has exited may be started again by its restart policy: its
	// log goes on, and so do we.
	select {
	case err := <-printing:
		if err != nil {
			return err
		}
	case <-signals:
		return interrupted(ctx, n, p, converge, signals, printing)
	}
	return exitCode(ctx, n, p, first, o)
}

// interrupted stops the project for a signal, and prints what is said meanwhile.
func interrupted(ctx context.Context, n *client.Node, p *types.Project, c *convergence, signals <-chan os.Signal, printing <-chan error) error {
	if err := stopOrKill(ctx, n, p, c, signals); err != nil {
		return err
	}
	return errors.Join(<-printing, &client.ExitError{Code: 130})
}

// stopOrKill stops the project, and kills it at the next signal.
func stopOrKill(ctx context.Context, n *client.Node, p *types.Project, c *convergence, signals <-chan os.Signal) error {
	c.report.line("Project", p.Name, "Stopping (again to force)")
	stopped := make(chan error, 1)
	go func() { stopped <- stopAll(ctx, n, p, c.report, c.timeout) }()
	select {
	case err := <-stopped:
		return err
	case <-signals:
		now := int64(0)
		return errors.Join(stopAll(ctx, n, p, c.report, &now), <-stopped)
	}
}

// exited is a container that has.
type exited struct {
	container *nodev1.Container
	code      int32
	err       error
}

// awaitExit returns when the first container has exited, or none can be waited for.
func awaitExit(ctx context.Context, n *client.Node, all []*nodev1.Container) *exited {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan *exited, len(all))
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for _, c := range all {
		waiting.Go(func() {
			answer, err := n.Containers.Wait(ctx, &nodev1.WaitRequest{Container: c.GetId()})
			results <- &exited{c, answer.GetExitCode(), err}
		})
	}
	last := &exited{}
	for range all {
		last = <-results
		if last.err == nil {
			break
		}
	}
	return last
}

// exitCode is that of the service the command was told of, or of the first
// container that exited where that ends all.
func exitCode(ctx context.Context, n *client.Node, p *types.Project, first *exited, o upOptions) error {
	switch {
	case o.exitCodeFrom != "":
		found, err := list(ctx, n, p.Name)
		if err != nil {
			return err
		}
		for _, c := range found[o.exitCodeFrom] {
			if c.GetExitCode() != 0 {
				return &client.ExitError{Code: int(c.GetExitCode())}
			}
		}
	case o.abortOnExit && first.code != 0:
		return &client.ExitError{Code: int(first.code)}
	}
	return nil
}

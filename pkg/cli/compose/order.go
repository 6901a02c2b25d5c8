package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// inOrder calls work for each service when it is done for those it depends on,
// for independent ones at once. reverse turns the order round. The first error
// ends what has not begun.
func inOrder(ctx context.Context, p *types.Project, reverse bool, work func(ctx context.Context, s *types.ServiceConfig) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := map[string]chan struct{}{}
	for name := range p.Services {
		done[name] = make(chan struct{})
	}
	var group sync.WaitGroup
	for name, service := range p.Services {
		before := slices.Collect(dependencies(p, service, reverse))
		group.Go(func() {
			defer close(done[name])
			for _, other := range before {
				select {
				case <-done[other]:
				case <-ctx.Done():
					return
				}
			}
			if ctx.Err() != nil {
				return
			}
			if err := work(ctx, &service); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// dependencies are the services of the project that come before one.
func dependencies(p *types.Project, s types.ServiceConfig, reverse bool) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		others := s.GetDependencies()
		if reverse {
			others = s.GetDependents(p)
		}
		for _, other := range others {
			if _, ok := p.Services[other]; ok && !yield(other) {
				return
			}
		}
	}
}

// look is how often the state of what is waited for is asked for, should no event
// tell of it.
const look = time.Second

// await returns when the services that s depends on are as it wants them.
func await(ctx context.Context, n *client.Node, p *types.Project, s *types.ServiceConfig) error {
	for name, dependency := range s.DependsOn {
		if dependency.Condition == "" || dependency.Condition == types.ServiceConditionStarted {
			continue
		}
		if _, ok := p.Services[name]; !ok && !dependency.Required {
			continue
		}
		err := until(ctx, n, func() (bool, error) { return fulfilled(ctx, n, p.Name, name, dependency.Condition) })
		if err != nil && dependency.Required {
			return fmt.Errorf("service %s depends on %s: %w", s.Name, name, err)
		}
	}
	return nil
}

// until waits for a condition that changes with containers.
func until(ctx context.Context, n *client.Node, met func() (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := n.Containers.Events(ctx, &nodev1.EventsRequest{})
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel() // runs first: it ends the reader
	reader.Go(func() {
		for {
			if _, err := events.Recv(); err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		if ok, err := met(); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fulfilled says whether the containers of a service meet a condition of
// depends_on. An error says that they never will.
func fulfilled(ctx context.Context, n *client.Node, project, service, condition string) (bool, error) {
	found, err := list(ctx, n, project)
	if err != nil {
		return false, err
	}
	containers := found[service]
	if len(containers) == 0 {
		return false, fmt.Errorf("service %s has no container", service)
	}
	met := true
	for _, c := range containers {
		ok, err := meets(c, condition)
		if err != nil {
			return false, explain(ctx, n, c, err)
		}
		met = met && ok
	}
	return met, nil
}

// meets is fulfilled for one container.
func meets(c *nodev1.Container, condition string) (bool, error) {
	exited := c.GetState() == "exited" || c.GetState() == "dead"
	switch condition {
	case types.ServiceConditionHealthy:
		switch {
		case c.GetHealth() == "healthy":
			return true, nil
		case c.GetHealth() == "unhealthy":
			return false, fmt.Errorf("container %s is unhealthy", c.GetName())
		case exited:
			return false, fmt.Errorf("container %s exited (%d)", c.GetName(), c.GetExitCode())
		case c.GetHealth() == "" && running(c):
			return false, fmt.Errorf("container %s has no healthcheck configured", c.GetName())
		}
		return false, nil
	case types.ServiceConditionCompletedSuccessfully:
		if exited && c.GetExitCode() != 0 {
			return false, fmt.Errorf("container %s didn't complete successfully: exit %d", c.GetName(), c.GetExitCode())
		}
		return exited, nil
	case types.ServiceConditionStarted, "":
		if exited {
			return false, errors.New("container " + c.GetName() + " has exited")
		}
		return running(c), nil
	}
	return false, fmt.Errorf("condition %q is unknown", condition)
}

// explain adds to an error what the container said last: its health check where it
// is unhealthy, and else its log.
func explain(ctx context.Context, n *client.Node, c *nodev1.Container, err error) error {
	words := ""
	switch {
	case err == nil:
		return nil
	case c.GetHealth() == "unhealthy":
		words = lastCheck(ctx, n, c)
	case !running(c):
		words = lastLine(ctx, n, c)
	}
	if words == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, words)
}

// lastCheck is the result of a container's last health check, in words.
func lastCheck(ctx context.Context, n *client.Node, c *nodev1.Container) string {
	var known struct {
		State struct {
			Health struct {
				Log []struct {
					ExitCode int
					Output   string
				}
			}
		}
	}
	answer, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: c.GetId()})
	if err != nil || json.Unmarshal(answer.GetJson(), &known) != nil {
		return "" // it is gone
	}
	log := known.State.Health.Log
	if len(log) == 0 {
		return ""
	}
	last := log[len(log)-1]
	return strings.TrimSuffix(fmt.Sprintf("its check exited with %d: %.500s", last.ExitCode, strings.TrimSpace(last.Output)), ": ")
}

// lastLine is the last line of a container's log, in words.
func lastLine(ctx context.Context, n *client.Node, c *nodev1.Container) string {
	one := int64(1)
	stream, err := n.Containers.Logs(ctx, &nodev1.LogsRequest{Container: c.GetId(), Tail: &one})
	if err != nil {
		return "" // it is gone
	}
	answer, err := stream.Recv()
	if err != nil || len(answer.GetLines()) == 0 {
		return ""
	}
	return fmt.Sprintf("its last words: %.500s", strings.TrimSpace(string(answer.GetLines()[0].GetText())))
}

package compose

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Recreate says which containers are replaced.
const (
	recreateDiverged = iota // those that are not what the file says
	recreateAlways
	recreateNever
)

// convergence brings the containers of a project to what its file says.
type convergence struct {
	node     *client.Node
	project  *types.Project
	report   *report
	recreate int
	// start is false for containers that are only made.
	start bool
	// timeout of stops in seconds; nil is the containers' own.
	timeout *int64
	// images are those of the services.
	images map[string]imageInfo
	// renewVolumes: a container that is replaced leaves its anonymous volumes.
	renewVolumes bool

	mu sync.Mutex
	// replaced are the services of which a container was.
	replaced map[string]bool
}

// report tells what is done, a line each.
type report struct {
	mu sync.Mutex
	to io.Writer
}

func (r *report) line(kind, name, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Whoever does not read this has not asked for it.
	_, _ = fmt.Fprintf(r.to, " %s %s  %s\n", kind, name, what)
}

// service converges one service, whose dependencies have been.
func (c *convergence) service(ctx context.Context, s *types.ServiceConfig) error {
	if s.ContainerName != "" && s.GetScale() > 1 {
		return fmt.Errorf("service %s: container_name allows one container, not %d", s.Name, s.GetScale())
	}
	for _, warning := range leftOut(c.project, s) {
		c.report.line("Service", s.Name, "Warning: "+warning)
	}
	want, err := c.want(ctx, s)
	if err != nil {
		return err
	}
	if c.start {
		if err := await(ctx, c.node, c.project, s); err != nil {
			return err
		}
	}
	found, err := list(ctx, c.node, c.project.Name)
	if err != nil {
		return err
	}
	var keep []*nodev1.Container
	taken := map[int]bool{}
	// Of two with one number, as somebody leaves them who gives up in the middle of
	// a replace, the new one stays.
	slices.SortStableFunc(found[s.Name], func(a, b *nodev1.Container) int {
		other := func(c *nodev1.Container) int {
			if c.GetLabels()[labelHash] == want {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(other(a), other(b)))
	})
	for _, old := range found[s.Name] {
		n := number(old)
		switch {
		case len(taken) == s.GetScale() || n == 0 || taken[n]:
			if err := c.remove(ctx, old); err != nil {
				return err
			}
			continue
		case c.recreate == recreateAlways, c.recreate == recreateDiverged && old.GetLabels()[labelHash] != want:
			if err := c.replace(ctx, s, old, want); err != nil {
				return err
			}
		default:
			keep = append(keep, old)
		}
		taken[n] = true
	}
	for n := 1; len(taken) < s.GetScale(); n++ {
		if taken[n] {
			continue
		}
		if err := c.make(ctx, s, n, want); err != nil {
			return err
		}
		taken[n] = true
	}
	for _, old := range keep {
		if err := c.startKept(ctx, s, old); err != nil {
			return err
		}
	}
	return nil
}

// want is the hash of what a service's containers are to be.
func (c *convergence) want(ctx context.Context, s *types.ServiceConfig) (string, error) {
	files, err := files(c.project, s)
	if err != nil {
		return "", fmt.Errorf("service %s: %w", s.Name, err)
	}
	peer := ""
	if service, ok := strings.CutPrefix(s.NetworkMode, "service:"); ok {
		// Whoever shares the namespaces of a container goes with it.
		if peer, err = c.first(ctx, service); err != nil {
			return "", fmt.Errorf("service %s: network_mode: %w", s.Name, err)
		}
	}
	return hash(s, c.images[s.Name].ID, files, peer)
}

// startKept starts a container that stays, if it does not run, and again where it
// depends on what was replaced and says so.
func (c *convergence) startKept(ctx context.Context, s *types.ServiceConfig, old *nodev1.Container) error {
	if old.GetName() == asideName(old) {
		if err := c.rename(ctx, old, containerName(c.project, s, number(old))); err != nil {
			return err
		}
	}
	if c.start && running(old) && c.restarts(s) {
		if _, err := c.node.Containers.Restart(ctx, &nodev1.RestartRequest{Container: old.GetId(), Timeout: c.timeout}); err != nil {
			return fmt.Errorf("restart %s: %w", old.GetName(), err)
		}
		c.report.line("Container", old.GetName(), "Restarted")
		return nil
	}
	if !c.start || running(old) || old.GetState() == "restarting" {
		c.report.line("Container", old.GetName(), "Running")
		return nil
	}
	if _, err := c.node.Containers.Start(ctx, &nodev1.StartRequest{Container: old.GetId()}); err != nil {
		return fmt.Errorf("start %s: %w", old.GetName(), err)
	}
	c.report.line("Container", old.GetName(), "Started")
	return nil
}

// restarts says whether a service is to be restarted with one it depends on that
// has been replaced.
func (c *convergence) restarts(s *types.ServiceConfig) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, dependency := range s.DependsOn {
		if dependency.Restart && c.replaced[name] {
			return true
		}
	}
	return false
}

// replace makes a container anew under its name. Volumes stay: named ones are
// mounted again, and so are anonymous ones at their places. The old one, which
// alone knows the latter, goes when the new one is there.
func (c *convergence) replace(ctx context.Context, s *types.ServiceConfig, old *nodev1.Container, want string) error {
	c.report.line("Container", old.GetName(), "Recreate")
	// What can be wrong with the new one is found while the old one runs.
	if _, err := c.request(ctx, s, nil); err != nil {
		return err
	}
	if err := stop(ctx, c.node, old, c.timeout); err != nil {
		return err
	}
	removal := func(ctx context.Context) error {
		request := &nodev1.RemoveRequest{Container: old.GetId(), Force: true, Volumes: c.renewVolumes}
		if _, err := c.node.Containers.Remove(ctx, request); err != nil && !gone(err) {
			return fmt.Errorf("remove %s: %w", old.GetName(), err)
		}
		return nil
	}
	putBack := func() error { return nil }
	if old.GetState() == "created" { // it has its ports, and nothing to keep
		if err := removal(ctx); err != nil {
			return err
		}
	} else {
		if err := c.rename(ctx, old, asideName(old)); err != nil {
			return err
		}
		putBack = func() error { return c.putBack(context.WithoutCancel(ctx), old) }
	}
	earlier := old.GetMounts()
	if c.renewVolumes {
		earlier = nil
	}
	made, err := c.create(ctx, s, number(old), want, earlier)
	if err != nil {
		return errors.Join(err, putBack())
	}
	if err := removal(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	if c.replaced == nil {
		c.replaced = map[string]bool{}
	}
	c.replaced[s.Name] = true
	c.mu.Unlock()
	return c.begin(ctx, s, made)
}

// putBack gives a container its name again, and lets it run if it did.
func (c *convergence) putBack(ctx context.Context, old *nodev1.Container) error {
	if err := c.rename(ctx, old, old.GetName()); err != nil || !running(old) {
		return err
	}
	if _, err := c.node.Containers.Start(ctx, &nodev1.StartRequest{Container: old.GetId()}); err != nil {
		return fmt.Errorf("start %s again: %w", old.GetName(), err)
	}
	return nil
}

// asideName is what a container is called while another one takes its place.
func asideName(c *nodev1.Container) string {
	id := c.GetId()[:min(len(c.GetId()), 12)]
	if strings.HasPrefix(c.GetName(), id+"_") {
		return c.GetName()
	}
	return id + "_" + c.GetName()
}

func (c *convergence) rename(ctx context.Context, one *nodev1.Container, name string) error {
	if one.GetName() == name && name == asideName(one) {
		return nil
	}
	if _, err := c.node.Containers.Rename(ctx, &nodev1.RenameRequest{Container: one.GetId(), Name: name}); err != nil {
		return fmt.Errorf("rename %s to %s: %w", one.GetName(), name, err)
	}
	return nil
}

// request asks for a container of a service, changed by edit.
func (c *convergence) request(ctx context.Context, s *types.ServiceConfig, edit func(o *containers.Options)) (*nodev1.CreateRequest, error) {
	ports := &containers.Ports{Published: containers.PublishedBy(ctx, c.node)}
	defer ports.Close() // they are the container's then
	r, err := request(c.project, s, containers.ThisMachine(ports), func(service string) (string, error) {
		return c.first(ctx, service)
	}, edit)
	if err != nil {
		return nil, err
	}
	imageVolumes(r, c.images[s.Name].Volumes)
	if r.Container.Labels == nil {
		r.Container.Labels = map[string]string{}
	}
	return r, nil
}

// make makes container number n of a service and starts it.
func (c *convergence) make(ctx context.Context, s *types.ServiceConfig, n int, want string) error {
	made, err := c.create(ctx, s, n, want, nil)
	if err != nil {
		return err
	}
	return c.begin(ctx, s, made)
}

// create makes container number n of a service, with the anonymous volumes of an
// earlier one. Where it fails there is none.
func (c *convergence) create(ctx context.Context, s *types.ServiceConfig, n int, want string, earlier []*nodev1.Mount) (*nodev1.CreateResponse, error) {
	r, err := c.request(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	inherit(r, earlier)
	r.Name = containerName(c.project, s, n)
	maps.Copy(r.Container.Labels, labels(c.project, s, n, want))
	made, err := c.filled(ctx, s, r)
	if err != nil {
		return nil, err
	}
	for _, warning := range made.GetWarnings() {
		c.report.line("Container", made.GetName(), "Warning: "+warning)
	}
	c.report.line("Container", made.GetName(), "Created")
	return made, nil
}

// filled makes a container with the secrets and configs of its service. One
// without them does not stay: the next up would take it for what is wanted.
func (c *convergence) filled(ctx context.Context, s *types.ServiceConfig, r *nodev1.CreateRequest) (*nodev1.CreateResponse, error) {
	files, err := files(c.project, s)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	made, err := c.node.Containers.Create(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", r.GetName(), err)
	}
	if err := inject.Copy(ctx, c.node, made.GetId(), files); err != nil {
		err = fmt.Errorf("copy secrets and configs to %s: %w", made.GetName(), err)
		_, undo := c.node.Containers.Remove(context.WithoutCancel(ctx), &nodev1.RemoveRequest{Container: made.GetId(), Force: true})
		return nil, errors.Join(err, undo)
	}
	return made, nil
}

// begin starts a container that was made.
func (c *convergence) begin(ctx context.Context, s *types.ServiceConfig, made *nodev1.CreateResponse) error {
	if !c.start {
		return nil
	}
	if _, err := c.node.Containers.Start(ctx, &nodev1.StartRequest{Container: made.GetId()}); err != nil {
		return fmt.Errorf("start %s: %w", made.GetName(), err)
	}
	c.report.line("Container", made.GetName(), "Started")
	return c.hooks(ctx, s, made.GetId())
}

// first is the first container of another service.
func (c *convergence) first(ctx context.Context, service string) (string, error) {
	found, err := list(ctx, c.node, c.project.Name)
	if err != nil {
		return "", err
	}
	if len(found[service]) == 0 {
		return "", fmt.Errorf("service %s has no container", service)
	}
	return found[service][0].GetId(), nil
}

func (c *convergence) remove(ctx context.Context, old *nodev1.Container) error {
	return remove(ctx, c.node, c.report, old, c.timeout, false)
}

// stop stops a container if it runs.
func stop(ctx context.Context, n *client.Node, c *nodev1.Container, timeout *int64) error {
	if _, err := n.Containers.Stop(ctx, &nodev1.StopRequest{Container: c.GetId(), Timeout: timeout}); err != nil && !gone(err) {
		return fmt.Errorf("stop %s: %w", c.GetName(), err)
	}
	return nil
}

// remove stops and removes a container, with its anonymous volumes where volumes
// is set.
func remove(ctx context.Context, n *client.Node, r *report, c *nodev1.Container, timeout *int64, volumes bool) error {
	if err := stop(ctx, n, c, timeout); err != nil {
		return err
	}
	if _, err := n.Containers.Remove(ctx, &nodev1.RemoveRequest{Container: c.GetId(), Force: true, Volumes: volumes}); err != nil && !gone(err) {
		return fmt.Errorf("remove %s: %w", c.GetName(), err)
	}
	r.line("Container", c.GetName(), "Removed")
	return nil
}

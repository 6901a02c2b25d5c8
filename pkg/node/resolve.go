package node

import (
	"context"
	"strings"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// target is a container that a request is about.
type target struct {
	c *runtime.Container
	// e is nil where a client of CRI made the container, such as kubelet.
	e *entry
}

// lock takes the container for one operation. CRI's own calls look after those
// of its clients.
func (t target) lock(ctx context.Context) (unlock func(), err error) {
	if t.e == nil {
		return func() {}, nil
	}
	return t.e.lock(ctx)
}

// find finds a container by its name, its id, the beginning of its id, or by
// POD/CONTAINER or NAMESPACE/POD/CONTAINER where kubelet made it.
func (s *Server) find(ref string) (target, error) {
	ref = strings.TrimPrefix(ref, "/") // docker's names begin with one
	if ref == "" {
		return target{}, invalid("container: is empty")
	}
	if e := s.table.named(ref); e != nil && !e.record().Creating {
		if c, err := s.config.Containers.Get(e.id); err == nil {
			return target{c, e}, nil
		}
	}
	if strings.Contains(ref, "/") {
		return s.findInPod(ref)
	}
	var found []target
	for _, c := range s.config.Containers.List() {
		t, ok := s.seen(c)
		switch {
		case !ok || !strings.HasPrefix(c.ID(), ref):
		case c.ID() == ref:
			return t, nil
		default:
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return target{}, notFound("no container %q: \"cri-node ps -a\" lists those there are", ref)
	case 1:
		return found[0], nil
	}
	return target{}, invalid("%q begins the ids of %d containers: give more of the id", ref, len(found))
}

// seen reports whether people are to see a container. They do not see what
// builds run in, nor what is being made.
func (s *Server) seen(c *runtime.Container) (target, bool) {
	st := c.Status()
	if st.Infra || st.State == runtime.Creating {
		return target{}, false
	}
	if st.Owner == "" {
		return target{c: c}, true
	}
	e := s.table.get(c.ID())
	if e == nil || e.record().Creating {
		return target{}, false
	}
	return target{c, e}, true
}

// findInPod finds kubelet's containers. Of several attempts it is the last.
func (s *Server) findInPod(ref string) (target, error) {
	parts := strings.Split(ref, "/")
	if len(parts) > 3 {
		return target{}, invalid("container: %q has too many slashes: POD/CONTAINER or NAMESPACE/POD/CONTAINER", ref)
	}
	container, pod, namespace := parts[len(parts)-1], parts[len(parts)-2], ""
	if len(parts) == 3 {
		namespace = parts[0]
	}
	var found *runtime.Container
	where := map[string]bool{}
	for _, c := range s.config.Containers.List() {
		st := c.Status()
		if st.Infra || st.Owner != "" || st.Name != container {
			continue
		}
		sb, err := s.config.Sandboxes.Get(st.Group)
		if err != nil {
			continue
		}
		key := sb.Status().Params.Key
		if key.Name != pod || namespace != "" && key.Namespace != namespace {
			continue
		}
		where[key.Namespace] = true
		if found == nil || found.Status().CreatedAt.Before(st.CreatedAt) {
			found = c
		}
	}
	switch {
	case found == nil:
		return target{}, notFound("no container %q: \"cri-node ps -a\" lists those there are", ref)
	case len(where) > 1:
		return target{}, invalid("there is a container %q in several namespaces: say NAMESPACE/%s", ref, ref)
	}
	return target{c: found}, nil
}

// title names a container in errors and events.
func (s *Server) title(t target) string {
	if t.e != nil {
		return t.e.name()
	}
	st := t.c.Status()
	if sb, err := s.config.Sandboxes.Get(st.Group); err == nil {
		return sb.Status().Params.Name + "/" + st.Name
	}
	return st.Name
}

// findToChange is find for who is about to change it.
func (s *Server) findToChange(ref string, force bool) (target, error) {
	t, err := s.find(ref)
	if err == nil {
		err = s.protect(t, force)
	}
	return t, err
}

// protect refuses to change what kubelet made, unless told to.
func (s *Server) protect(t target, force bool) error {
	if t.e != nil || force {
		return nil
	}
	return refused("container %q belongs to Kubernetes, which would put back what is changed behind its back: use kubectl, or --force if you mean it", s.title(t))
}

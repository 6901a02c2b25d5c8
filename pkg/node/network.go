package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cri-node/cri-node/pkg/node/names"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// madeNetwork is what is kept of a network that somebody has made. One that only
// has members is in their records alone.
type madeNetwork struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
}

func (s *Server) networkPath(name string) string { return s.dir("networks", name+".json") }

// networks are all there are, by name.
func (s *Server) networks() (map[string]*nodev1.Network, error) {
	all := map[string]*nodev1.Network{}
	entries, err := os.ReadDir(s.dir("networks"))
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	for _, f := range entries {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue // what an interrupted write left
		}
		made, _, err := linux.LoadRecord[madeNetwork](s.networkPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !errors.Is(err, linux.ErrBroken) {
			return nil, fmt.Errorf("load network %s: %w", name, err)
		}
		all[name] = &nodev1.Network{Name: name, Labels: made.Labels, CreatedAt: nanoseconds(made.CreatedAt)}
	}
	for _, e := range s.table.list() {
		r := e.record()
		for _, m := range r.Networks {
			n := all[m.Network]
			if n == nil {
				n = &nodev1.Network{Name: m.Network, CreatedAt: nanoseconds(r.CreatedAt)}
				all[m.Network] = n
			}
			n.Containers = append(n.Containers, e.id)
		}
	}
	return all, nil
}

// network finds one.
func (s *Server) network(name string) (*nodev1.Network, error) {
	all, err := s.networks()
	if err != nil {
		return nil, err
	}
	if all[name] == nil {
		return nil, notFound("no such network: %s", name)
	}
	return all[name], nil
}

// CreateNetwork keeps the name of a network that has no members yet.
func (s *system) CreateNetwork(_ context.Context, r *nodev1.CreateNetworkRequest) (*nodev1.CreateNetworkResponse, error) {
	if err := names.Validate("name", r.GetName()); err != nil {
		return nil, err
	}
	s.networkUse.Lock()
	defer s.networkUse.Unlock()
	all, err := s.networks()
	if err != nil {
		return nil, err
	}
	if all[r.GetName()] != nil {
		return nil, exists("network %q exists already", r.GetName())
	}
	made := madeNetwork{Name: r.GetName(), Labels: r.GetLabels(), CreatedAt: time.Now()}
	if err := linux.SaveRecord(s.networkPath(made.Name), made, linux.SurviveProcess); err != nil {
		return nil, fmt.Errorf("save network %s: %w", made.Name, err)
	}
	s.Report("network", "create", made.Name, made.Name, nil)
	return &nodev1.CreateNetworkResponse{}, nil
}

// ListNetworks lists those that were made or have members, by name.
func (s *system) ListNetworks(context.Context, *nodev1.ListNetworksRequest) (*nodev1.ListNetworksResponse, error) {
	all, err := s.networks()
	if err != nil {
		return nil, err
	}
	answer := &nodev1.ListNetworksResponse{}
	for _, n := range all {
		answer.Networks = append(answer.Networks, n)
	}
	slices.SortFunc(answer.Networks, func(a, b *nodev1.Network) int { return strings.Compare(a.GetName(), b.GetName()) })
	return answer, nil
}

// RemoveNetwork forgets a network without members.
func (s *system) RemoveNetwork(_ context.Context, r *nodev1.RemoveNetworkRequest) (*nodev1.RemoveNetworkResponse, error) {
	s.networkUse.Lock()
	defer s.networkUse.Unlock()
	n, err := s.network(r.GetName())
	if err != nil {
		return nil, err
	}
	if len(n.GetContainers()) > 0 {
		return nil, refused("network %q has containers: %s", n.GetName(), strings.Join(s.titles(n.GetContainers()), ", "))
	}
	return &nodev1.RemoveNetworkResponse{}, s.removeNetwork(n.GetName())
}

func (s *Server) removeNetwork(name string) error {
	if err := os.Remove(s.networkPath(name)); err != nil {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	s.Report("network", "destroy", name, name, nil)
	return nil
}

// titles are the names of containers.
func (s *Server) titles(ids []string) []string {
	var all []string
	for _, id := range ids {
		if e := s.table.get(id); e != nil {
			all = append(all, e.name())
		}
	}
	return all
}

// pruneNetworks forgets those that no container is a member of.
func (s *Server) pruneNetworks(r *nodev1.PruneRequest, answer *nodev1.PruneResponse) error {
	s.networkUse.Lock()
	defer s.networkUse.Unlock()
	all, err := s.networks()
	if err != nil {
		return err
	}
	var errs []error
	for name, n := range all {
		if len(n.GetContainers()) > 0 || !wanted(r, n.GetLabels(), time.Unix(0, n.GetCreatedAt())) {
			continue
		}
		if err := s.removeNetwork(name); err != nil {
			errs = append(errs, err)
			continue
		}
		answer.Networks = append(answer.Networks, name)
	}
	slices.Sort(answer.Networks)
	return errors.Join(errs...)
}

// ConnectNetwork makes a container a member of a network, or ends that. The
// others know it, or forget it, at once.
func (s *system) ConnectNetwork(ctx context.Context, r *nodev1.ConnectNetworkRequest) (*nodev1.ConnectNetworkResponse, error) {
	if err := names.Validate("name", r.GetName()); err != nil {
		return nil, err
	}
	for i, a := range r.GetAliases() {
		if err := names.Validate(fmt.Sprintf("aliases[%d]", i), a); err != nil {
			return nil, err
		}
	}
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	if t.e == nil {
		return nil, refused("container %q belongs to Kubernetes, whose pods are found through Services", s.title(t))
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before := t.e.record().Networks
	is := func(m membership) bool { return m.Network == r.GetName() }
	after := slices.DeleteFunc(slices.Clone(before), is)
	switch {
	case r.GetDisconnect() && len(after) == len(before):
		return nil, refused("container %q is not in network %q", s.title(t), r.GetName())
	case !r.GetDisconnect() && len(after) < len(before):
		return nil, exists("container %q is in network %q already", s.title(t), r.GetName())
	case !r.GetDisconnect():
		if _, err := s.network(r.GetName()); err != nil {
			return nil, err
		}
		after = append(after, membership{r.GetName(), r.GetAliases()})
	}
	if err := s.update(t.e, func(r *record) { r.Networks = after }); err != nil {
		return nil, err
	}
	action := "connect"
	if r.GetDisconnect() {
		action = "disconnect"
	}
	s.Report("network", action, r.GetName(), r.GetName(), map[string]string{"container": t.e.id})
	// Those of before are told as well: it may be in none with them now.
	s.refreshNetworks(ctx, slices.Concat(before, after))
	if len(after) == 0 {
		s.clearHosts(ctx, t.e.record().PodID)
	}
	return &nodev1.ConnectNetworkResponse{}, nil
}

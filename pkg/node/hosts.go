package node

import (
	"context"
	"slices"
	"strings"
	"sync"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// hostsFiles are the lines that the members of networks have of one another.
type hostsFiles struct {
	// mu makes one writing follow another, so that the last knows the most.
	mu sync.Mutex
	// written is what the files of pods have, by the pod's id.
	written map[string]string
}

// drop forgets the file of a pod that is gone.
func (h *hostsFiles) drop(podID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.written, podID)
}

// member of a network that can be reached.
type member struct {
	podID    string
	networks []membership
	names    []string
	ips      []string
}

// refreshHosts writes the hosts files of all members of a pod's networks, which
// has come or has changed.
func (s *Server) refreshHosts(ctx context.Context, podID string) {
	s.hosts.drop(podID) // a pod that was brought back has a new file
	for _, e := range s.inPod(podID, "") {
		if len(e.record().Networks) > 0 {
			s.refreshNetworks(ctx, e.record().Networks)
			return
		}
	}
}

// refreshNetworks writes the hosts files of the members of networks.
func (s *Server) refreshNetworks(ctx context.Context, networks []membership) {
	if len(networks) == 0 {
		return
	}
	s.hosts.mu.Lock()
	defer s.hosts.mu.Unlock()
	members := s.members()
	for _, m := range members {
		if !share(m.networks, networks) {
			continue
		}
		lines := hostLines(m, members)
		text := strings.Join(lines, "\n")
		if had, ok := s.hosts.written[m.podID]; ok && had == text {
			continue
		}
		sb, err := s.config.Sandboxes.Get(m.podID)
		if err == nil {
			err = sb.SetHosts(ctx, lines)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "A container does not learn the names of others", "sandboxID", m.podID)
			continue
		}
		s.hosts.written[m.podID] = text
	}
}

// clearHosts takes the names of others from a pod without members.
func (s *Server) clearHosts(ctx context.Context, podID string) {
	s.hosts.mu.Lock()
	defer s.hosts.mu.Unlock()
	if s.hosts.written[podID] == "" || slices.ContainsFunc(s.members(), func(m member) bool { return m.podID == podID }) {
		return
	}
	sb, err := s.config.Sandboxes.Get(podID)
	if err == nil {
		err = sb.SetHosts(ctx, nil)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "A container knows the names of others still", "sandboxID", podID)
		return
	}
	delete(s.hosts.written, podID)
}

// members lists the containers in networks that are up, or about to be.
func (s *Server) members() []member {
	var all []member
	for _, e := range s.table.list() {
		r := e.record()
		c, err := s.config.Containers.Get(e.id)
		if err != nil || len(r.Networks) == 0 || c.Status().State == runtime.Exited {
			continue
		}
		m := member{podID: r.PodID, networks: r.Networks, names: []string{r.Name}}
		for _, ip := range s.addresses(r.PodID) {
			m.ips = append(m.ips, ip.String())
		}
		m.names = append(m.names, short(e.id))
		all = append(all, m)
	}
	return all
}

func share(a, b []membership) bool {
	return slices.ContainsFunc(a, func(x membership) bool {
		return slices.ContainsFunc(b, func(y membership) bool { return x.Network == y.Network })
	})
}

// hostLines are what a member has of the others, and of itself by its names.
func hostLines(of member, members []member) []string {
	var lines []string
	for _, m := range members {
		names := m.names
		met := false
		for _, n := range m.networks {
			if share([]membership{n}, of.networks) {
				met = true
				names = append(slices.Clip(names), n.Aliases...)
			}
		}
		if !met {
			continue
		}
		for _, ip := range m.ips {
			lines = append(lines, ip+"\t"+strings.Join(unique(names), " "))
		}
	}
	return lines
}

// unique leaves out what is there twice.
func unique(list []string) []string {
	var out []string
	for _, x := range list {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

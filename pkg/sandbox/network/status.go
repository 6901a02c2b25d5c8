package network

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// statusAge is how long the plugins' answer stands.
	statusAge = 10 * time.Second
	// statusTimeout bounds asking them: nobody waits long for a status.
	statusTimeout = 5 * time.Second
)

// statusCache keeps what the plugins said last.
type statusCache struct {
	asking sync.Mutex // held while the plugins are asked
	mu     sync.Mutex
	err    error
	at     time.Time // zero: not asked yet
}

func (s *statusCache) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = time.Time{}
}

// get returns the last answer and its age; known is false where there is none.
func (s *statusCache) get() (age time.Duration, known bool, answer error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.at), !s.at.IsZero(), s.err
}

func (s *statusCache) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.at = err, time.Now()
}

// Status returns nil where pods can be attached, and else what to do about it.
// It asks the plugins at most every ten seconds.
func (n *Network) Status(ctx context.Context) error {
	s := n.state.Load()
	if s.conf == nil || n.watch == nil {
		n.reload()
		s = n.state.Load()
	}
	if s.conf == nil {
		return fmt.Errorf("%w: %w", s.reason, errdefs.ErrUnavailable)
	}
	age, known, err := n.check.get()
	if known && age < statusAge {
		return err
	}
	if !n.check.asking.TryLock() {
		if known {
			return err
		}
		n.check.asking.Lock()
	}
	defer n.check.asking.Unlock()
	if age, known, err := n.check.get(); known && age < statusAge {
		return err
	}
	// The answer is for others too, who have not given up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
	defer cancel()
	err = n.ask(ctx, s.conf)
	n.check.set(err)
	return err
}

// ask looks for the plugins and calls their STATUS, where the configuration's
// version has it.
func (n *Network) ask(ctx context.Context, c *conf) error {
	for _, p := range c.list.Plugins {
		for _, name := range n.executed(p) {
			if _, err := n.findPlugin(name); err != nil {
				return fmt.Errorf("%w: %w", n.explainMissing(name, c, err), errdefs.ErrUnavailable)
			}
		}
	}
	if c.embedded() && n.cfg.InProcess {
		// The moment to put back what somebody flushed.
		return n.masq.recheck()
	}
	if ok, err := version.GreaterThanOrEqualTo(c.list.CNIVersion, "1.1.0"); err != nil {
		return fmt.Errorf("network %q (of %s): version %q: %w", c.list.Name, c.where(), c.list.CNIVersion, err)
	} else if !ok {
		return nil // without STATUS
	}
	op := &operation{n: n, inProcess: n.cfg.InProcess}
	cni := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, op)
	if err := cni.GetStatusNetworkList(ctx, c.list); err != nil {
		return fmt.Errorf("network %q (of %s) is not ready: %w: %w", c.list.Name, c.where(), err, errdefs.ErrUnavailable)
	}
	return nil
}

// executed names the plugins that an entry of a list needs on disk for a pod
// without port mappings.
func (n *Network) executed(p *libcni.PluginConfig) []string {
	name, ipam := p.Network.Type, p.Network.IPAM.Type
	if n.cfg.InProcess && isBuiltin(name) && (name != "bridge" || bridgeEligible(p.Bytes)) {
		return nil
	}
	if ipam == "" {
		return []string{name}
	}
	return []string{name, ipam}
}

func (n *Network) explainMissing(name string, c *conf, err error) error {
	if !errors.Is(err, ErrPluginMissing) {
		return err
	}
	return fmt.Errorf("CNI plugin %q (of %s) not found in %s: install the CNI plugins there (github.com/containernetworking/plugins, "+
		"or what the network add-on ships), or change network.plugin_dirs", name, c.where(), strings.Join(n.cfg.PluginDirs, ", "))
}

// Info says more about the network than whether it is ready.
type Info struct {
	// Name is the CNI name of the network, "" where there is none.
	Name string `json:"name,omitempty"`
	// File is where it comes from, "" for the embedded default network.
	File string `json:"file,omitempty"`
	// Plugins are the plugins in their order.
	Plugins []string `json:"plugins,omitempty"`
	// Problems are configuration files that were passed over, with the reason,
	// and what will not work although the network is ready.
	Problems []string `json:"problems,omitempty"`
}

// Info returns what is known without asking any plugin.
func (n *Network) Info() Info {
	s := n.state.Load()
	info := Info{Problems: append([]string(nil), s.problems...)}
	if n.watchErr != nil {
		info.Problems = append(info.Problems, fmt.Sprintf("changes are noticed late: %v", n.watchErr))
	}
	if s.conf == nil {
		return info
	}
	info.Name = s.conf.list.Name
	if !s.conf.embedded() {
		info.File = filepath.Join(n.cfg.ConfDir, s.conf.file)
	}
	portmap := false
	for _, p := range s.conf.list.Plugins {
		info.Plugins = append(info.Plugins, p.Network.Type)
		portmap = portmap || p.Network.Capabilities["portMappings"]
		if p.Network.Type == "portmap" && n.cfg.InProcess {
			if _, err := n.findPlugin("portmap"); err != nil {
				info.Problems = append(info.Problems, fmt.Sprintf("pods with host ports cannot start: %v", n.explainMissing("portmap", s.conf, err)))
			}
		}
	}
	if !portmap {
		info.Problems = append(info.Problems, fmt.Sprintf("host ports have no effect: no plugin of %s has the capability portMappings", s.conf.where()))
	}
	return info
}

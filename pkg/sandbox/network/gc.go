package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// GC detaches everything that is neither in validIDs nor attached by this
// process, which also pays debts, and has the plugins of the network of now
// release what they hold for nobody. It goes on after an error and returns all.
func (n *Network) GC(ctx context.Context, validIDs []string) error {
	valid := map[string]bool{}
	for _, id := range validIDs {
		valid[id] = true
	}
	ids, err := n.Known()
	if err != nil {
		return err
	}
	errs := []error{reap()} // those of an earlier process
	for _, id := range ids {
		if valid[id] {
			continue
		}
		errs = append(errs, n.collect(ctx, id))
	}
	if s := n.state.Load(); s.conf != nil {
		errs = append(errs, n.gcNetwork(ctx, s.conf, valid))
		if !s.conf.embedded() {
			errs = append(errs, n.dropDefault(ctx, valid))
		}
	}
	return errors.Join(errs...)
}

// collect detaches id unless it is attached by now.
func (n *Network) collect(ctx context.Context, id string) error {
	if err := validateID(id); err != nil {
		return err
	}
	unlock, err := n.ids.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if n.isLive(id) {
		return nil
	}
	return n.detach(ctx, detachment{id: id})
}

// gcNetwork calls GC of the plugins. Those that run in this process have it in
// every version of CNI, others since 1.1.0.
func (n *Network) gcNetwork(ctx context.Context, c *conf, valid map[string]bool) error {
	if c.list.DisableGC {
		return nil
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	keep := n.liveIDs()
	for id := range valid {
		keep = append(keep, id)
	}
	// What could not be detached still has its addresses.
	debts, err := n.Known()
	if err != nil {
		return err
	}
	for _, id := range append(keep, debts...) {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: IfName})
	}
	op := &operation{n: n, inProcess: n.cfg.InProcess, rec: &intent{File: c.file, InProcess: n.cfg.InProcess}}
	// libcni would first run DEL for cached results that are not valid, past
	// our locks. That has been done; an empty cache has it do nothing.
	cni := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, filepath.Join(n.cfg.CacheDir, "none"), op)
	list := *c.list
	if ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); err != nil || !ok {
		if list.Plugins = n.builtins(c.list); len(list.Plugins) == 0 {
			return nil
		}
		list.CNIVersion = "1.1.0"
	}
	if err := cni.GCNetworkList(ctx, &list, args); err != nil {
		return fmt.Errorf("collect garbage of network %q (of %s): %w", list.Name, c.where(), err)
	}
	return nil
}

func (n *Network) builtins(list *libcni.NetworkConfigList) []*libcni.PluginConfig {
	var out []*libcni.PluginConfig
	for _, p := range list.Plugins {
		if n.cfg.InProcess && len(n.executed(p)) == 0 {
			out = append(out, p)
		}
	}
	return out
}

// dropDefault removes what is left of the embedded network after another one
// has replaced it and its last pod has gone: addresses of pods that nobody
// knows, and the masquerade rules. The bridge stays, as with any CNI network.
func (n *Network) dropDefault(ctx context.Context, valid map[string]bool) error {
	if !n.cfg.InProcess || n.cfg.DefaultNetwork.Disabled || !n.masq.usable() {
		return nil
	}
	ids, err := n.Known()
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec, err := n.loadIntent(id)
		if err == nil && rec.File == "" {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil // it may be one
		}
	}
	c, err := n.defaultConf()
	if err != nil {
		return err
	}
	return errors.Join(n.gcNetwork(ctx, c, valid), n.masq.remove())
}

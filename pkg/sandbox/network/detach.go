package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Detach disconnects a pod with the configuration and the result of its own
// ADD. netns may be "" or gone. It is idempotent, and an id that is not known
// is a success. After an error the intent stays, as a debt that GC or another
// Detach pays; errors.Is tells ErrPluginMissing.
func (n *Network) Detach(ctx context.Context, id, netns string) error {
	if err := validateID(id); err != nil {
		return err
	}
	unlock, err := n.ids.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	n.setLive(id, false)
	n.setMapped(id, false)
	return n.detach(ctx, detachment{id: id, netns: netns, mayRetire: n.started})
}

// detachment is what a DEL is for.
type detachment struct {
	id, netns string
	// mayRetire: the namespace is about to go, so the interfaces may stay a
	// moment longer.
	mayRetire bool
}

// detach needs the lock of id.
func (n *Network) detach(ctx context.Context, d detachment) error {
	id, netns := d.id, livingNetNS(d.netns)
	recs, err := n.undoable(id)
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	if len(recs) == 0 {
		return n.removeIntent(id)
	}
	lock, err := n.awaitOrphans(ctx, id)
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	for _, rec := range recs {
		op := &operation{n: n, id: id, rec: rec, inProcess: n.cfg.InProcess || rec.InProcess, mayRetire: d.mayRetire, lock: lock}
		err = n.del(ctx, op, netns)
		if lock = op.lock; err != nil {
			break
		}
	}
	if lock != nil {
		err = errors.Join(err, lock.Close())
	}
	if err != nil {
		return fmt.Errorf("detach %s from its network: %w", id, err)
	}
	return n.removeIntent(id)
}

// undoable returns what DEL must run for: the intent, or, where that is lost
// or broken, libcni's cached results.
func (n *Network) undoable(id string) ([]*intent, error) {
	rec, err := n.loadIntent(id)
	if err == nil {
		return []*intent{rec}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, linux.ErrBroken) {
		return nil, err
	}
	cached, err := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, nil).GetCachedAttachments(id)
	if err != nil {
		return nil, fmt.Errorf("list cached CNI results: %w", err)
	}
	var recs []*intent
	for _, c := range cached {
		if c.IfName != IfName {
			continue
		}
		// The arguments are not needed: libcni keeps those of ADD too, and
		// DEL of all plugins works from id and result.
		rec := &intent{Attachment: Attachment{ID: id, NetNS: c.NetNS}, Conf: c.Config}
		if raw, err := json.Marshal(c.CapabilityArgs["portMappings"]); err == nil {
			// What cannot be understood is left out of DEL, no reason to stop.
			_ = json.Unmarshal(raw, &rec.Attachment.PortMappings)
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// del runs DEL of all plugins.
func (n *Network) del(ctx context.Context, op *operation, netns string) error {
	list, err := parseConf(op.rec.Conf, "")
	if err != nil {
		return fmt.Errorf("parse recorded network configuration: %w", err)
	}
	cni := libcni.NewCNIConfigWithCacheDir(n.cfg.PluginDirs, n.cfg.CacheDir, op)
	return cni.DelNetworkList(ctx, list, op.rec.runtimeConf(netns))
}

// livingNetNS returns "" for a namespace that is gone: its file may still be
// there, without the mount that made it a namespace, and not every plugin
// copes with that. CNI says that DEL gets no namespace then.
func livingNetNS(path string) string {
	if path == "" || ns.IsNSorErr(path) != nil {
		return ""
	}
	return path
}

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
)

// hostLocal is the host-local plugin on its own files and its own allocator: a
// directory for each network with a lock file, last_reserved_ip.<range> and a
// file for each reserved address, named by it, that holds
// "<container id>\r\n<interface>".
type hostLocal struct {
	conf  *allocator.IPAMConfig
	store *disk.Store
}

// newPodStore spares the allocator reading every reservation of the network to
// find that a pod has none yet: Attach has undone what its id had before.
type newPodStore struct{ *disk.Store }

// GetByID implements backend.Store.
func (newPodStore) GetByID(string, string) []net.IP { return nil }

// openHostLocal locks nothing yet. The caller must close it.
func openHostLocal(stdin []byte) (*hostLocal, error) {
	conf, _, err := allocator.LoadIPAMConfig(stdin, "")
	if err != nil {
		return nil, fmt.Errorf("parse host-local configuration: %w", err)
	}
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open host-local reservations: %w", err)
	}
	return &hostLocal{conf: conf, store: store}, nil
}

func (h *hostLocal) close() error { return h.store.Close() }

// reserve takes one address of each range, all or none.
func (h *hostLocal) reserve(id, ifname string) (*current.Result, error) {
	result := &current.Result{CNIVersion: current.ImplementedSpecVersion, Routes: h.conf.Routes}
	for i := range h.conf.Ranges {
		ip, err := allocator.NewIPAllocator(&h.conf.Ranges[i], newPodStore{h.store}, i).Get(id, ifname, nil)
		if err != nil {
			if i > 0 {
				err = errors.Join(err, h.release(id, ifname))
			}
			return nil, fmt.Errorf("reserve address of range %d: %w", i, err)
		}
		result.IPs = append(result.IPs, ip)
	}
	return result, nil
}

// release gives back all addresses of id.
func (h *hostLocal) release(id, ifname string) error {
	if err := h.store.Lock(); err != nil {
		return fmt.Errorf("lock host-local reservations: %w", err)
	}
	err := h.store.ReleaseByID(id, ifname)
	return errors.Join(err, h.store.Unlock())
}

// releaseAddresses gives back addresses that are known from a result, without
// reading every reservation of the network, and returns how many it found.
func (h *hostLocal) releaseAddresses(id, ifname string, ips []*current.IPConfig) (released int, err error) {
	if err := h.store.Lock(); err != nil {
		return 0, fmt.Errorf("lock host-local reservations: %w", err)
	}
	var errs []error
	for _, ip := range ips {
		path := disk.GetEscapedPath(h.dir(), ip.Address.IP.String())
		owner, ownerIf, err := readReservation(path)
		if err == nil && owner == id && (ownerIf == ifname || ownerIf == "") {
			if err = os.Remove(path); err == nil {
				released++
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return released, errors.Join(append(errs, h.store.Unlock())...)
}

// releaseInvalid gives back every address whose owner keep does not know.
func (h *hostLocal) releaseInvalid(keep func(id string) bool) error {
	if err := h.store.Lock(); err != nil {
		return fmt.Errorf("lock host-local reservations: %w", err)
	}
	entries, err := os.ReadDir(h.dir())
	errs := []error{err}
	for _, e := range entries {
		if net.ParseIP(e.Name()) == nil {
			continue
		}
		path := filepath.Join(h.dir(), e.Name())
		owner, _, err := readReservation(path)
		if err == nil && !keep(owner) {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, h.store.Unlock())...)
}

func (h *hostLocal) dir() string {
	dir := h.conf.DataDir
	if dir == "" {
		dir = defaultDataDir
	}
	return filepath.Join(dir, h.conf.Name)
}

// defaultDataDir is host-local's own default, which it does not export.
const defaultDataDir = "/var/lib/cni/networks"

// readReservation returns whom an address belongs to.
func readReservation(path string) (id, ifname string, err error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	id, ifname, _ = strings.Cut(strings.TrimSpace(string(doc)), disk.LineBreak)
	return id, ifname, nil
}

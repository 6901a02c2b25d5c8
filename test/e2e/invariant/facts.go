package invariant

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/cri-node/cri-node/test/e2e/usage"
)

// Config says where one node keeps its things.
type Config struct {
	Root, State string
	// Bridge is the bridge of the node's network.
	Bridge string
	// LeaseDir is the data directory of host-local, with one directory for
	// each network.
	LeaseDir string
	Subnets  []netip.Prefix
	// Network is the name of the node's CNI network, which rules mention.
	Network string
	// CgroupParents are all cgroups below which the node puts containers.
	CgroupParents []string
	// Daemon is the process id of the daemon, 0 when it is down.
	Daemon int
	// Socket is that of the CRI, Log the daemon's log.
	Socket, Log string
}

// The kinds of facts.
const (
	Mount   = "mount"
	NetNS   = "netns"
	Port    = "bridge port"
	Cgroup  = "cgroup"
	Process = "process"
	Lease   = "lease"
	Rule    = "rule"
	Path    = "path"
	Monitor = "monitor"
	// Address is one inside a pod's network namespace.
	Address = "address"
	// Store is something wrong with the image store.
	Store = "image store:"
	// Mode is a file that others can reach, or that belongs to somebody else.
	Mode = "mode of"
)

// Fact is one thing found.
type Fact struct {
	Kind string
	What string
	// IDs are the object ids in What.
	IDs []string
	// PID is that of a process or monitor.
	PID int
}

func (f Fact) String() string { return f.Kind + " " + f.What }

var idPattern = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

func fact(kind, what string) Fact {
	return Fact{Kind: kind, What: what, IDs: idPattern.FindAllString(what, -1)}
}

// Collect gathers all facts about a node.
func Collect(c Config) ([]Fact, error) {
	var all []Fact
	var errs []error
	for _, source := range []func(Config) ([]Fact, error){mounts, ports, cgroups, processes, leases, rules, paths, addresses, modes, checkStore} {
		facts, err := source(c)
		all = append(all, facts...)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// mounts finds mounts below the node's directories. A network namespace is
// pinned by a mount of nsfs.
func mounts(c Config) ([]Fact, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []Fact
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		point := unescape(fields[4])
		if !below(point, c.Root) && !below(point, c.State) {
			continue
		}
		kind := Mount
		if sep := slices.Index(fields, "-"); sep > 0 && fields[sep+1] == "nsfs" && strings.HasPrefix(fields[3], "net:") {
			kind = NetNS
		}
		found = append(found, fact(kind, point))
	}
	return found, nil
}

// mountPoints are all places where something is mounted.
func mountPoints() (map[string]bool, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	points := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points[unescape(fields[4])] = true
		}
	}
	return points, nil
}

func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func below(path, dir string) bool {
	return dir != "" && (path == dir || strings.HasPrefix(path, dir+"/"))
}

// ports finds the interfaces attached to the node's bridge.
func ports(c Config) ([]Fact, error) {
	if c.Bridge == "" {
		return nil, nil
	}
	bridge, err := netlink.LinkByName(c.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("find bridge: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var found []Fact
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			found = append(found, fact(Port, l.Attrs().Name))
		}
	}
	return found, nil
}

// cgroups finds the cgroups of containers in every hierarchy. Parents without an
// id in their path belong to who named them, as a pod's cgroup belongs to kubelet.
func cgroups(c Config) ([]Fact, error) {
	roots, err := CgroupMounts()
	if err != nil {
		return nil, err
	}
	var found []Fact
	for _, root := range roots {
		for _, parent := range c.CgroupParents {
			err := filepath.WalkDir(filepath.Join(root, parent), func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				} else if err != nil {
					return err
				}
				if f := fact(Cgroup, path); d.IsDir() && len(f.IDs) > 0 {
					found = append(found, f)
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("walk cgroups: %w", err)
			}
		}
	}
	return found, nil
}

// CgroupMounts lists the mount points of all cgroup hierarchies.
func CgroupMounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var roots []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		sep := slices.Index(fields, "-")
		if sep > 0 && (fields[sep+1] == "cgroup" || fields[sep+1] == "cgroup2") {
			roots = append(roots, unescape(fields[4]))
		}
	}
	return roots, nil
}

// processes finds what runs in the node's cgroups or names its directories, but
// for the daemon; monitors are a kind of their own.
func processes(c Config) ([]Fact, error) {
	all, err := usage.Processes()
	if err != nil {
		return nil, err
	}
	var found []Fact
	for _, p := range all {
		if p.PID == c.Daemon || p.PID == os.Getpid() {
			continue
		}
		inCgroup := slices.ContainsFunc(p.Cgroups, func(g string) bool {
			return slices.ContainsFunc(c.CgroupParents, func(parent string) bool { return below(g, parent) })
		})
		named := slices.ContainsFunc(p.Args, func(a string) bool {
			return strings.Contains(a, c.State) || strings.Contains(a, c.Root)
		})
		if !inCgroup && !named {
			continue
		}
		kind := Process
		if !inCgroup && len(p.Args) > 1 && p.Args[1] == "monitor" {
			kind = Monitor
		}
		f := fact(kind, fmt.Sprintf("%d %q %s", p.PID, p.Cmdline(), strings.Join(p.Cgroups, ",")))
		f.PID = p.PID
		found = append(found, f)
	}
	return found, nil
}

// leases finds the addresses host-local has given out.
func leases(c Config) ([]Fact, error) {
	files, err := filepath.Glob(filepath.Join(c.LeaseDir, "*", "*"))
	if c.LeaseDir == "" || err != nil {
		return nil, err
	}
	var found []Fact
	for _, f := range files {
		if _, err := netip.ParseAddr(filepath.Base(f)); err != nil {
			continue // lock, last_reserved_ip
		}
		owner, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		found = append(found, fact(Lease, filepath.Base(f)+" of "+strings.Join(strings.Fields(string(owner)), " ")))
	}
	return found, nil
}

// paths finds files and directories whose name holds an id. Blobs and layers are
// named by digests, which look the same, and are left out.
func paths(c Config) ([]Fact, error) {
	var found []Fact
	for _, top := range []string{c.Root, c.State} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			rel, _ := filepath.Rel(top, path)
			if d.IsDir() && (digestNamed(rel) || strings.Count(rel, "/") > 4) {
				return fs.SkipDir
			}
			if !idPattern.MatchString(d.Name()) {
				return nil
			}
			found = append(found, fact(Path, path))
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("walk %s: %w", top, err)
		}
	}
	return found, nil
}

// digestNamed says whether the entries of a directory are named by digests.
func digestNamed(rel string) bool {
	return slices.Contains([]string{"blobs", "layers", "images", "ingest", "staging", "partial"}, filepath.Base(rel))
}

package invariant

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cri-node/cri-node/test/e2e/pace"
)

// View is what the CRI says there is.
type View struct {
	Sandboxes  []Sandbox
	Containers []Container
}

// Sandbox is a pod in the list.
type Sandbox struct {
	ID, Key     string
	Ready       bool
	HostNetwork bool
	IPs         []string
}

// Container is a container in the list. State is CREATED, RUNNING or EXITED.
type Container struct {
	ID, SandboxID, Key, State        string
	CreatedAt, StartedAt, FinishedAt int64
	ExitCode                         int32
	Reason                           string
}

// Check returns what is wrong with the facts in the light of the view.
func Check(facts []Fact, v View) []string {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	known, ready, pods := map[string]bool{}, map[string]bool{}, 0
	keys := map[string]bool{}
	for _, s := range v.Sandboxes {
		known[s.ID], ready[s.ID] = true, s.Ready
		if keys[s.Key] {
			add("two sandboxes are named %s", s.Key)
		}
		keys[s.Key] = true
		if s.Ready && !s.HostNetwork {
			pods++
		}
	}
	for _, c := range v.Containers {
		if !known[c.SandboxID] {
			add("container %s is in sandbox %s, which is not listed", c.ID, c.SandboxID)
		}
		if keys[c.SandboxID+c.Key] {
			add("two containers are named %s in %s", c.Key, c.SandboxID)
		}
		keys[c.SandboxID+c.Key] = true
		known[c.ID] = true
	}
	count := map[string]int{}
	for _, f := range facts {
		count[f.Kind]++
		if f.Kind == Store || f.Kind == Mode {
			add("%s", f)
		}
		owned := slices.ContainsFunc(f.IDs, func(id string) bool { return known[id] })
		if len(f.IDs) > 0 && !owned {
			add("nobody owns %s", f)
		}
		if owned && slices.Contains([]string{NetNS, Address, Lease, Rule}, f.Kind) &&
			!slices.ContainsFunc(f.IDs, func(id string) bool { return ready[id] }) {
			add("a stopped pod has %s", f)
		}
	}
	if count[Monitor] > 1 {
		add("%d monitors run", count[Monitor])
	}
	if count[Port] != pods {
		add("%d ports on the bridge for %d ready pods", count[Port], pods)
	}
	if count[NetNS] != pods {
		add("%d pinned network namespaces for %d ready pods", count[NetNS], pods)
	}
	return slices.Concat(wrong, checkAddresses(facts, v), checkInside(facts, v), checkProcesses(facts, v))
}

// checkAddresses compares the addresses in the status with the leases.
func checkAddresses(facts []Fact, v View) []string {
	var wrong []string
	owner := map[string]string{}
	for _, s := range v.Sandboxes {
		if !s.Ready || s.HostNetwork {
			continue
		}
		if len(s.IPs) == 0 {
			wrong = append(wrong, fmt.Sprintf("ready sandbox %s has no address", s.ID))
		}
		for _, ip := range s.IPs {
			if owner[ip] != "" {
				wrong = append(wrong, fmt.Sprintf("%s and %s both have %s", owner[ip], s.ID, ip))
			}
			owner[ip] = s.ID
		}
	}
	leased := map[string]bool{}
	for _, f := range facts {
		if f.Kind != Lease {
			continue
		}
		ip, rest, _ := strings.Cut(f.What, " of ")
		if a, err := netip.ParseAddr(ip); err == nil {
			ip = a.String()
		}
		leased[ip] = true
		if owner[ip] == "" || !strings.HasPrefix(rest, owner[ip]) {
			wrong = append(wrong, fmt.Sprintf("the lease %s is not in the status of its pod", f.What))
		}
	}
	for ip, id := range owner {
		if !leased[ip] {
			wrong = append(wrong, fmt.Sprintf("sandbox %s says %s, which is not leased", id, ip))
		}
	}
	return wrong
}

// checkProcesses compares the states of containers with the processes in their
// cgroups.
func checkProcesses(facts []Fact, v View) []string {
	live := map[string]bool{}
	for _, f := range facts {
		if f.Kind == Process {
			for _, id := range f.IDs {
				live[id] = true
			}
		}
	}
	var wrong []string
	for _, c := range v.Containers {
		switch {
		case c.State == "RUNNING" && !live[c.ID]:
			wrong = append(wrong, fmt.Sprintf("container %s is RUNNING and has no process", c.ID))
		case c.State == "EXITED" && live[c.ID]:
			wrong = append(wrong, fmt.Sprintf("container %s is EXITED and has a process", c.ID))
		}
	}
	return wrong
}

// Residue returns the facts that were not there before; monitors and the daemon
// stay for as long as the node does.
func Residue(before, now []Fact) []string {
	had := map[string]bool{}
	for _, f := range before {
		had[f.String()] = true
	}
	var left []string
	for _, f := range now {
		if f.Kind != Monitor && !had[f.String()] {
			left = append(left, "left behind: "+f.String())
		}
	}
	return left
}

// Settle calls judge until it finds nothing wrong or the time is over, and
// returns the last findings. The limit is that of a machine of usual speed.
func Settle(limit time.Duration, judge func() ([]string, error)) ([]string, error) {
	ticker := time.NewTicker(pace.Limit(50 * time.Millisecond))
	defer ticker.Stop()
	for deadline := time.Now().Add(pace.Limit(limit)); ; <-ticker.C {
		wrong, err := judge()
		if err == nil && len(wrong) == 0 || time.Now().After(deadline) {
			return wrong, err
		}
	}
}

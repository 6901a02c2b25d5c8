package invariant

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// addresses finds the global addresses inside the pinned network namespaces.
func addresses(c Config) ([]Fact, error) {
	pins, err := mounts(c)
	if err != nil {
		return nil, err
	}
	var found []Fact
	for _, pin := range pins {
		if pin.Kind != NetNS {
			continue
		}
		inside, err := addressesIn(pin.What)
		if err != nil {
			return nil, fmt.Errorf("read addresses in %s: %w", pin.What, err)
		}
		for _, a := range inside {
			found = append(found, fact(Address, a.String()+" in "+pin.What))
		}
	}
	return found, nil
}

// addressesIn lists the addresses in a network namespace, but for those that each
// namespace has; none where the pin has gone meanwhile.
func addressesIn(pin string) ([]netip.Addr, error) {
	file, err := os.Open(pin)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []netip.Addr
	err = onOwnThread(func() error {
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); errors.Is(err, unix.EINVAL) {
			return nil // unmounted meanwhile: an empty file
		} else if err != nil {
			return err
		}
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			p, parseErr := netip.ParsePrefix(a.String())
			err = errors.Join(err, parseErr)
			if ip := p.Addr(); parseErr == nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
				found = append(found, ip)
			}
		}
		return err
	})
	return found, err
}

// onOwnThread runs f on a thread that ends with it, and that is not the main one:
// /proc/self shows the namespaces of that.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// While this goroutine holds the main thread, no other gets it.
		err := onOwnThread(f)
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// checkInside compares the addresses in the status of each ready pod with those
// in its namespace, and those of all namespaces with one another.
func checkInside(facts []Fact, v View) []string {
	var wrong []string
	inside, owner := map[string][]string{}, map[string]string{}
	for _, f := range facts {
		if f.Kind != Address {
			continue
		}
		ip, pin, _ := strings.Cut(f.What, " in ")
		if other := owner[ip]; other != "" {
			wrong = append(wrong, fmt.Sprintf("%s is in both %s and %s", ip, other, pin))
		}
		owner[ip] = pin
		for _, id := range f.IDs {
			inside[id] = append(inside[id], ip)
		}
	}
	for _, s := range v.Sandboxes {
		if !s.Ready || s.HostNetwork {
			continue
		}
		says, has := slices.Sorted(slices.Values(s.IPs)), slices.Sorted(slices.Values(inside[s.ID]))
		if !slices.Equal(says, has) {
			wrong = append(wrong, fmt.Sprintf("sandbox %s says %q and has %q inside", s.ID, says, has))
		}
	}
	return wrong
}

package registry

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"golang.org/x/net/publicsuffix"
)

// checkRealm decides whether a token server that a registry names may be
// asked. A registry, or who sits between it and us, chooses that URL freely:
//
//   - it is https, unless the registry itself is spoken to without TLS;
//   - it is no loopback or link-local address (cloud metadata services live
//     there), unless that is the registry's own;
//   - with credentials, it shares the registry's host name or registrable
//     domain (auth.docker.io and registry-1.docker.io), or the operator lists
//     it.
func (o origin) checkRealm(realm string, withCredentials bool, trusted []string) error {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil {
		return refuseRealm(o.host, "an invalid URL")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !o.plain()) {
		return refuseRealm(o.host, "a URL that is not https")
	}
	name, own := u.Hostname(), hostname(o.host)
	if strings.EqualFold(name, own) || slices.Contains(trusted, u.Host) || slices.Contains(trusted, name) {
		return nil
	}
	if internal(name) {
		return refuseRealm(o.host, "an address of this machine or link")
	}
	if !withCredentials {
		return nil
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(name))
	if err == nil && net.ParseIP(name) == nil {
		if mine, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(own)); err == nil && mine == domain {
			return nil
		}
	}
	return refuseRealm(o.host, fmt.Sprintf("another domain (%s); list that host among the trusted token servers to allow it", name))
}

func refuseRealm(host, why string) error {
	return fmt.Errorf("%w: token server of %s refused: it is %s", docker.ErrInvalidAuthorization, host, why)
}

// internal reports whether a host name is, by its spelling, an address that
// only this machine or its link answers.
func internal(name string) bool {
	if strings.EqualFold(name, "localhost") || strings.HasSuffix(strings.ToLower(name), ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	return addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast()
}

// hostname cuts the port off.
func hostname(host string) string {
	return (&url.URL{Host: host}).Hostname()
}

func realmHost(realm string) (string, error) {
	u, err := url.Parse(realm)
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

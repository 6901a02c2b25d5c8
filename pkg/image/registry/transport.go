package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// origin is the scheme, host and port that credentials are bound to.
type origin struct{ scheme, host string }

func (o origin) is(u *url.URL) bool {
	if !strings.EqualFold(u.Host, o.host) {
		return false
	}
	// On loopback the library itself goes from https to http.
	return strings.EqualFold(u.Scheme, o.scheme) || docker.IsLocalhost(o.host)
}

// plain reports whether the registry is spoken to, or may be, without TLS: the
// library tries https first on loopback and falls back to http.
func (o origin) plain() bool {
	return o.scheme == "http" || docker.IsLocalhost(o.host)
}

const maxRedirects = 10

// redirectHeaders may follow a redirect to another host. All others may be
// secrets: Authorization, cookies, and whatever hosts.toml adds.
var redirectHeaders = []string{"Accept", "Accept-Encoding", "Range", "User-Agent"}

// checkRedirect decides whether to follow, and strips what must not follow.
// net/http itself compares host names without the port, and so would hand a
// token to another service of the same machine.
func (o origin) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("redirect to scheme %q refused", req.URL.Scheme)
	case req.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "https" && !o.plain():
		return errors.New("redirect from https to http refused")
	}
	if o.is(req.URL) || sameHost(via, req) {
		return nil
	}
	kept := http.Header{}
	for _, key := range redirectHeaders {
		if v, ok := req.Header[key]; ok {
			kept[key] = v
		}
	}
	req.Header = kept
	return nil
}

// sameHost reports whether no request of the chain left the host and scheme it
// is on now.
func sameHost(via []*http.Request, req *http.Request) bool {
	for _, v := range via {
		if v.URL.Host != req.URL.Host || v.URL.Scheme != req.URL.Scheme {
			return false
		}
	}
	return true
}

// guard asks for bodies as they are: an encoding on top of a blob would make
// offsets, and so resuming, mean nothing, and is one more way to send a bomb.
type guard struct{ base http.RoundTripper }

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Accept-Encoding", "identity")
	return g.base.RoundTrip(req)
}

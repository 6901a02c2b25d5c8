package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"
)

// hostFinder turns the domain of a name into hosts with our transport and
// authorizer.
type hostFinder struct {
	config Config
	name   reference.Named
	given  credentials
	server string // that given is for; "" is the image's own
	scrub  *scrubber
	// configure reads certs.d.
	configure docker.RegistryHosts
}

// find reads certs.d and returns the hosts to ask, in order. The last one is
// the registry itself, those before it are mirrors.
func (f *hostFinder) find(domain string) ([]docker.RegistryHost, error) {
	hosts, err := f.configure(domain)
	if err != nil {
		return nil, fmt.Errorf("hosts of registry %s: %w", domain, err)
	}
	for i := range hosts {
		h := &hosts[i]
		client := *h.Client
		origin := origin{scheme: h.Scheme, host: h.Host}
		client.Transport = &guard{base: client.Transport}
		client.CheckRedirect = origin.checkRedirect
		h.Client = &client
		upstream := i == len(hosts)-1
		h.Authorizer = &authorizer{
			origin:  origin,
			client:  &client,
			header:  h.Header,
			trusted: f.config.TrustedRealms,
			turn:    make(chan struct{}, 1),
			find: func(ctx context.Context) (credentials, error) {
				return f.credentialsFor(ctx, domain, origin.host, upstream)
			},
		}
	}
	return hosts, nil
}

// hardenClient bounds what a registry can make us read before its body, and
// keeps a connection for each layer that is downloaded in parallel. The caller
// holds s.mu.
func (s *Session) hardenClient(c *http.Client) error {
	if t, ok := c.Transport.(*http.Transport); ok {
		t.MaxResponseHeaderBytes = 1 << 20
		t.MaxIdleConnsPerHost = t.MaxIdleConns
		s.transports = append(s.transports, t)
	}
	return nil
}

// credentialsFor finds what may be shown to one host. Credentials of the
// request are for the registry of the image, not for its mirrors, unless their
// server address names that mirror.
func (f *hostFinder) credentialsFor(ctx context.Context, domain, host string, upstream bool) (credentials, error) {
	if !f.given.empty() && f.givenFor(domain, host, upstream) {
		return f.given, nil
	}
	path := reference.Path(f.name)
	found, err := f.config.fileCredentials(ctx, host, path)
	if err == nil && found.empty() && upstream && canonicalHost(host) != canonicalHost(domain) {
		found, err = f.config.fileCredentials(ctx, domain, path)
	}
	f.scrub.add(found)
	return found, err
}

func (f *hostFinder) givenFor(domain, host string, upstream bool) bool {
	own := upstream || canonicalHost(host) == canonicalHost(domain)
	switch f.server {
	case "":
		return own
	case canonicalHost(host):
		return true
	default:
		return own && f.server == canonicalHost(domain)
	}
}

// hostDir finds the directory of a host in certs.d. A hosts.toml that cannot
// be parsed is an error here: the library would go on without it, and then ask
// the wrong server.
func (f *hostFinder) hostDir(host string) (string, error) {
	var candidates []string
	for _, root := range f.config.CertsDirs {
		if i := strings.LastIndex(host, ":"); i > 0 {
			candidates = append(candidates, filepath.Join(root, host[:i]+"_"+host[i+1:]+"_"))
		}
		candidates = append(candidates, filepath.Join(root, host))
	}
	for _, root := range f.config.CertsDirs {
		candidates = append(candidates, filepath.Join(root, "_default"))
	}
	for _, dir := range candidates {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return "", err
		}
		return dir, checkHostsFile(filepath.Join(dir, "hosts.toml"))
	}
	return "", errdefs.ErrNotFound
}

func checkHostsFile(name string) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var any map[string]any
	err = toml.Unmarshal(b, &any)
	if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := syntax.Position()
		return fmt.Errorf("%s:%d:%d: %w: %w", name, line, column, err, errdefs.ErrFailedPrecondition)
	}
	return err
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// Config says where to find hosts and credentials. The zero value knows no
// files: every registry is asked over https and without credentials.
type Config struct {
	// CertsDirs are directories with <host>/hosts.toml, or with certificates
	// as docker lays them out. The first that knows a host wins; _default is
	// looked for after all of them.
	CertsDirs []string
	// AuthFiles are docker-style config.json files, the first match wins.
	// A file that does not exist is no error.
	AuthFiles []string
	// TrustedRealms are hosts of token servers that may get credentials of
	// registries in other domains.
	TrustedRealms []string
	// HelperTimeout bounds one run of a credential helper. Default 30 s.
	HelperTimeout time.Duration
	// UserAgent is sent with each request. Default "cri-node".
	UserAgent string
}

// Session is the conversation with the registry of one repository for the
// length of one pull. The caller must Close it.
type Session struct {
	name     reference.Named
	resolver remotes.Resolver
	scrub    scrubber
	finder   *hostFinder
	agent    string

	mu    sync.Mutex
	hosts map[string][]docker.RegistryHost
	// transports are those below all hosts' clients: what the library wraps
	// around some of them does not pass on that connections are to be closed.
	transports []*http.Transport
}

// NewSession prepares a session for the repository, and the tag or digest, that
// name says. It contacts nobody. The credentials in a, which may be nil, come
// before those in files.
func NewSession(ctx context.Context, c Config, name reference.Named, a *Auth) (*Session, error) {
	if c.UserAgent == "" {
		c.UserAgent = "cri-node"
	}
	if c.HelperTimeout <= 0 {
		c.HelperTimeout = 30 * time.Second
	}
	given, err := a.credentials()
	if err != nil {
		return nil, err
	}
	s := &Session{name: name, hosts: map[string][]docker.RegistryHost{}, agent: c.UserAgent}
	s.scrub.add(given)
	finder := &hostFinder{config: c, name: name, given: given, server: a.server(), scrub: &s.scrub}
	s.finder = finder
	finder.configure = dockerconfig.ConfigureHosts(quiet(context.WithoutCancel(ctx)),
		dockerconfig.HostOptions{HostDir: finder.hostDir, UpdateClient: s.hardenClient})
	s.resolver = docker.NewResolver(docker.ResolverOptions{
		Headers: http.Header{"User-Agent": []string{c.UserAgent}},
		Hosts: func(domain string) ([]docker.RegistryHost, error) {
			return s.hostsOf(domain, finder)
		},
	})
	return s, nil
}

// hostsOf finds the hosts of a domain once for a session, so that all requests
// share connections and tokens.
func (s *Session) hostsOf(domain string, f *hostFinder) ([]docker.RegistryHost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hosts, ok := s.hosts[domain]; ok {
		return hosts, nil
	}
	hosts, err := f.find(domain)
	if err != nil {
		return nil, err
	}
	s.hosts[domain] = hosts
	return hosts, nil
}

// Close lets go of idle connections. Readers still open stay usable.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

// Resolve asks what the session's name points to now. The descriptor comes
// from response headers: nothing in it has been verified.
func (s *Session) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	_, desc, err := s.resolver.Resolve(quiet(ctx), s.name.String())
	if err != nil {
		return ocispec.Descriptor{}, s.classify(ctx, fmt.Errorf("resolve %s: %w", s.name, err))
	}
	return desc, nil
}

// Fetch opens the content of a descriptor at an offset. Only media type,
// digest and size of the descriptor are looked at; urls in it are ignored
// (CVE-2020-15157). Reading beyond the size is an error. The request is made
// by the first Read, and ctx bounds the whole stream.
func (s *Session) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	fetcher, err := s.resolver.Fetcher(quiet(ctx), s.name.String())
	if err != nil {
		return nil, s.classify(ctx, fmt.Errorf("fetch %s: %w", desc.Digest, err))
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		desc.MediaType = ""
	}
	rc, err := fetcher.Fetch(quiet(ctx), ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size})
	if err != nil {
		return nil, s.classify(ctx, fmt.Errorf("fetch %s: %w", desc.Digest, err))
	}
	if offset > 0 {
		seeker, ok := rc.(io.Seeker)
		if !ok {
			return nil, errors.Join(fmt.Errorf("seek in %s: %w", desc.Digest, errdefs.ErrNotImplemented), rc.Close())
		}
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(s.classify(ctx, fmt.Errorf("seek in %s: %w", desc.Digest, err)), rc.Close())
		}
	}
	return &stream{ReadCloser: rc, ctx: ctx, session: s, what: "fetch " + desc.Digest.String()}, nil
}

// stream classifies the errors of a body, which come as late as its first Read.
type stream struct {
	io.ReadCloser
	ctx     context.Context //nolint:containedctx // the life of the stream is that of its request
	session *Session
	what    string
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = s.session.classify(s.ctx, fmt.Errorf("%s: %w", s.what, err))
	}
	return n, err
}

// quiet keeps containerd's library from writing to the global logrus logger:
// what matters comes back as an error.
func quiet(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

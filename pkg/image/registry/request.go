package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// maxChallenges is how often one request may be made again with other
// credentials.
const maxChallenges = 4

// endpoint is a host of the session's registry for requests that the library
// has no call for.
type endpoint struct {
	host   docker.RegistryHost
	domain string
	repo   string
}

// endpoint finds the host to ask first among those that can do what is wanted.
func (s *Session) endpoint(capability docker.HostCapabilities) (*endpoint, error) {
	hosts, err := s.hostsOf(reference.Domain(s.name), s.finder)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if h.Capabilities.Has(capability) {
			return &endpoint{host: h, domain: reference.Domain(s.name), repo: reference.Path(s.name)}, nil
		}
	}
	return nil, fmt.Errorf("no host of %s is configured for this: %w", reference.Domain(s.name), errdefs.ErrFailedPrecondition)
}

// url is an address below the API's root, such as /v2.
func (e *endpoint) url(query url.Values, parts ...string) string {
	u := url.URL{Scheme: e.host.Scheme, Host: e.host.Host, Path: strings.TrimSuffix(e.host.Path, "/") + "/" + strings.Join(parts, "/")}
	if e.domain != e.host.Host && (e.domain != "docker.io" || e.host.Host != "registry-1.docker.io") {
		if query == nil {
			query = url.Values{}
		}
		query.Set("ns", e.domain) // a mirror of several registries
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// apiRequest is one request. body, if set, may be called several times.
type apiRequest struct {
	method, url string
	header      http.Header
	body        func() (io.ReadCloser, error)
	size        int64
}

// do makes a request and answers what the registry asks for. The caller closes
// the body of the answer, whatever its status.
func (s *Session) do(ctx context.Context, e *endpoint, r apiRequest) (*http.Response, error) {
	ctx = quiet(ctx)
	var challenged []*http.Response
	for {
		response, err := s.try(ctx, e, r)
		if err != nil {
			return nil, s.classify(ctx, fmt.Errorf("%s %s: %w", r.method, e.host.Host, err))
		}
		if response.StatusCode != http.StatusUnauthorized || len(challenged) >= maxChallenges {
			return response, nil
		}
		challenged = append(challenged, response)
		if err := errors.Join(s.discard(response), e.host.Authorizer.AddResponses(ctx, challenged)); err != nil {
			return nil, s.classify(ctx, err)
		}
	}
}

func (s *Session) try(ctx context.Context, e *endpoint, r apiRequest) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		if request.Body, err = r.body(); err != nil {
			return nil, err
		}
		request.GetBody, request.ContentLength = r.body, r.size
		if r.size == 0 {
			request.Body = http.NoBody
		}
	}
	if request.URL.Host == e.host.Host {
		// Headers of hosts.toml may be secrets: for this host alone.
		request.Header = e.host.Header.Clone()
	}
	if request.Header == nil {
		request.Header = http.Header{}
	}
	request.Header.Set("User-Agent", s.agent)
	maps.Copy(request.Header, r.header)
	if err := e.host.Authorizer.Authorize(ctx, request); err != nil {
		if request.Body != nil {
			err = errors.Join(err, request.Body.Close())
		}
		return nil, err
	}
	return e.host.Client.Do(request)
}

// maxAnswer is how much of an answer is read that is not content.
const maxAnswer = 4 << 20

// discard reads a short answer to its end, so that the connection can be used
// again.
func (s *Session) discard(r *http.Response) error {
	_, err := io.Copy(io.Discard, io.LimitReader(r.Body, 64<<10))
	return errors.Join(err, r.Body.Close())
}

// refused makes an error of an answer, and closes it.
func (s *Session) refused(ctx context.Context, what string, r *http.Response) error {
	err := remoteserrors.NewUnexpectedStatusErr(r)
	_ = r.Body.Close() // what it said is in the error
	return s.classify(ctx, fmt.Errorf("%s: %w", what, err))
}

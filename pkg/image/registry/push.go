package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upload is how a blob came to be in a repository.
type Upload struct {
	// Exists: it was there. MountedFrom is the repository of the same registry
	// that it was taken from, without its bytes being sent.
	Exists      bool
	MountedFrom string
}

// pushing lets tokens be asked for that may write to the repository and, unless
// it is empty, read from another.
func (s *Session) pushing(ctx context.Context, from string) context.Context {
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(s.name)+":pull,push")
	if from == "" {
		return ctx
	}
	return docker.ContextWithAppendPullRepositoryScope(ctx, from)
}

// PushBlob brings a blob into the session's repository: not at all if it is
// there, else out of one of the repositories in from, which are paths in the
// same registry, else by sending what open opens. open may be called several
// times; its error is returned as it is.
func (s *Session) PushBlob(ctx context.Context, desc ocispec.Descriptor, from []string, open func(context.Context) (io.ReadCloser, error)) (Upload, error) {
	e, err := s.endpoint(docker.HostCapabilityPush)
	if err != nil {
		return Upload{}, err
	}
	exists, err := s.hasBlob(ctx, e, desc.Digest)
	if err != nil || exists {
		return Upload{Exists: exists}, err
	}
	for _, repo := range from {
		if repo == e.repo {
			continue
		}
		if s.mount(ctx, e, desc.Digest, repo) {
			return Upload{MountedFrom: repo}, nil
		}
		if ctx.Err() != nil {
			return Upload{}, context.Cause(ctx)
		}
	}
	location, err := s.beginUpload(ctx, e)
	if err != nil {
		return Upload{}, err
	}
	return Upload{}, s.upload(ctx, e, location, desc, open)
}

// HasBlob asks whether the session's repository has a blob.
func (s *Session) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	e, err := s.endpoint(docker.HostCapabilityPull)
	if err != nil {
		return false, err
	}
	response, err := s.do(ctx, e, apiRequest{method: http.MethodHead, url: e.url(nil, e.repo, "blobs", d.String())})
	return s.found(ctx, response, err)
}

func (s *Session) hasBlob(ctx context.Context, e *endpoint, d digest.Digest) (bool, error) {
	response, err := s.do(s.pushing(ctx, ""), e, apiRequest{method: http.MethodHead, url: e.url(nil, e.repo, "blobs", d.String())})
	return s.found(ctx, response, err)
}

func (s *Session) found(ctx context.Context, response *http.Response, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return true, s.discard(response)
	case http.StatusNotFound:
		return false, s.discard(response)
	default:
		return false, s.refused(ctx, "look for blob", response)
	}
}

// mount asks the registry to take a blob from another repository. Whatever it
// says to that, the blob can still be sent.
func (s *Session) mount(ctx context.Context, e *endpoint, d digest.Digest, repo string) bool {
	query := url.Values{"mount": {d.String()}, "from": {repo}}
	response, err := s.do(s.pushing(ctx, repo), e, apiRequest{
		method: http.MethodPost, url: e.url(query, e.repo, "blobs", "uploads/"), body: nothing,
	})
	if err != nil {
		return false
	}
	mounted := response.StatusCode == http.StatusCreated
	location := response.Header.Get("Location")
	_ = s.discard(response) // nobody waits for the rest
	if response.StatusCode == http.StatusAccepted {
		// The registry has begun an upload instead, which nobody goes on with.
		if u, err := e.resolve(location); err == nil {
			if response, err := s.do(s.pushing(ctx, ""), e, apiRequest{method: http.MethodDelete, url: u.String()}); err == nil {
				_ = s.discard(response) // as above
			}
		}
	}
	return mounted
}

// nothing is the body of a request that has none.
func nothing() (io.ReadCloser, error) { return http.NoBody, nil }

func (s *Session) beginUpload(ctx context.Context, e *endpoint) (*url.URL, error) {
	response, err := s.do(s.pushing(ctx, ""), e, apiRequest{method: http.MethodPost, url: e.url(nil, e.repo, "blobs", "uploads/"), body: nothing})
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusAccepted {
		return nil, s.refused(ctx, "begin upload to "+e.domain+"/"+e.repo, response)
	}
	location := response.Header.Get("Location")
	if err := s.discard(response); err != nil {
		return nil, s.classify(ctx, err)
	}
	return e.resolve(location)
}

// resolve makes a whole address of a Location. It may lead to another host,
// where credentials do not follow, but not from https to http.
func (e *endpoint) resolve(location string) (*url.URL, error) {
	base, err := url.Parse(e.url(nil, ""))
	if err != nil {
		return nil, err
	}
	u, err := base.Parse(location)
	if err != nil || location == "" {
		return nil, fmt.Errorf("registry %s sent no place to upload to: %w", e.host.Host, errdefs.ErrUnknown)
	}
	plain := origin{scheme: e.host.Scheme, host: e.host.Host}.plain()
	if u.Scheme != "https" && (u.Scheme != "http" || !plain) {
		return nil, fmt.Errorf("registry %s sends uploads to scheme %q, which is refused: %w", e.host.Host, u.Scheme, errdefs.ErrFailedPrecondition)
	}
	return u, nil
}

// upload sends a blob in one request.
func (s *Session) upload(ctx context.Context, e *endpoint, to *url.URL, desc ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	query := to.Query()
	query.Set("digest", desc.Digest.String())
	to.RawQuery = query.Encode()
	var openErr error
	response, err := s.do(s.pushing(ctx, ""), e, apiRequest{
		method: http.MethodPut, url: to.String(), size: desc.Size,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() (io.ReadCloser, error) {
			body, err := open(ctx)
			openErr = err
			if err != nil {
				return nil, err
			}
			return &source{ReadCloser: body, failed: &openErr}, nil
		},
	})
	if openErr != nil {
		if err == nil {
			_ = s.discard(response) // it got the wrong bytes
		}
		return openErr
	}
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusNoContent {
		return s.refused(ctx, "upload "+desc.Digest.String(), response)
	}
	return s.discard(response)
}

// source remembers why what is sent could not be read.
type source struct {
	io.ReadCloser
	failed *error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		*s.failed = err
	}
	return n, err
}

// PushManifest stores a manifest or index under a tag, or under its digest where
// tag is empty.
func (s *Session) PushManifest(ctx context.Context, desc ocispec.Descriptor, content []byte, tag string) error {
	e, err := s.endpoint(docker.HostCapabilityPush)
	if err != nil {
		return err
	}
	if tag == "" {
		tag = desc.Digest.String()
	}
	response, err := s.do(s.pushing(ctx, ""), e, apiRequest{
		method: http.MethodPut, url: e.url(nil, e.repo, "manifests", tag), size: int64(len(content)),
		header: http.Header{"Content-Type": {desc.MediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	})
	if err != nil {
		return err
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
	default:
		return s.refused(ctx, "push manifest", response)
	}
	got := response.Header.Get("Docker-Content-Digest")
	if err := s.discard(response); err != nil {
		return s.classify(ctx, err)
	}
	if got != "" && got != desc.Digest.String() {
		return fmt.Errorf("registry %s says that the manifest has digest %.100q, not %s: %w", e.host.Host, got, desc.Digest, errdefs.ErrDataLoss)
	}
	return nil
}

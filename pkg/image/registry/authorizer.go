package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// authorizer answers the challenges of one origin:
//
//	unknown --401 Basic--> basic    Authorization: Basic …
//	unknown --401 Bearer-> bearer   token from the realm, one for each scope
//	unknown --registry token given-> Authorization: Bearer …, from the start
//
// A 401 in spite of credentials drops the token once and then is final.
type authorizer struct {
	origin  origin
	client  *http.Client
	header  http.Header // from hosts.toml
	trusted []string
	find    func(context.Context) (credentials, error)

	// turn lets one goroutine at a time find credentials and fetch tokens,
	// and the others give up with their own context.
	turn  chan struct{}
	found *credentials // guarded by turn

	mu        sync.Mutex
	challenge *auth.Challenge
	tokens    map[string]token // by scope
}

type token struct {
	value   string
	expires time.Time // zero: not known, use until refused
}

var _ docker.Authorizer = (*authorizer)(nil)

// Authorize adds the header where the request goes to the origin.
func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	if !a.origin.is(req.URL) {
		return nil
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := a.credentials(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	challenge := a.challenge
	a.mu.Unlock()
	switch {
	case c.bearer != "":
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	case challenge == nil:
	case challenge.Scheme == auth.BasicAuth:
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.username+":"+c.secret)))
	default:
		t, err := a.token(ctx, *challenge, c)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+t)
	}
	return nil
}

// credentials asks for them once. Callers hold turn.
func (a *authorizer) credentials(ctx context.Context) (credentials, error) {
	if a.found == nil {
		c, err := a.find(ctx)
		if err != nil {
			return credentials{}, err
		}
		a.found = &c
	}
	return *a.found, nil
}

// AddResponses takes in a 401. A nil error means that another try makes sense.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	if !a.origin.is(last.Request.URL) {
		return fmt.Errorf("%w: %s, where the registry redirected to, asks for credentials", docker.ErrInvalidAuthorization, last.Request.URL.Host)
	}
	refused := 0
	for _, r := range responses {
		if r.StatusCode == http.StatusUnauthorized && r.Request.Header.Get("Authorization") != "" {
			refused++
		}
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := a.credentials(ctx)
	if err != nil {
		return err
	}
	for _, ch := range auth.ParseAuthHeader(last.Header) { // Bearer before Basic
		switch {
		case c.bearer != "":
			return fmt.Errorf("%w: registry token refused", docker.ErrInvalidAuthorization)
		case ch.Scheme == auth.BearerAuth && refused < 2:
			a.setChallenge(ch)
			return nil
		case ch.Scheme == auth.BasicAuth && refused == 0 && c.username != "":
			a.setChallenge(ch)
			return nil
		}
	}
	if c.empty() {
		return fmt.Errorf("%w: no credentials for %s", docker.ErrInvalidAuthorization, a.origin.host)
	}
	return fmt.Errorf("%w: credentials refused by %s", docker.ErrInvalidAuthorization, a.origin.host)
}

// setChallenge replaces what the registry asks for; tokens it gave before are
// expired or too narrow.
func (a *authorizer) setChallenge(ch auth.Challenge) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.challenge = &ch
	a.tokens = map[string]token{}
}

// token returns a bearer token for the scopes of the request. Callers hold
// turn.
func (a *authorizer) token(ctx context.Context, ch auth.Challenge, c credentials) (string, error) {
	options, err := auth.GenerateTokenOptions(ctx, a.origin.host, c.username, c.secret, ch)
	if err != nil {
		return "", fmt.Errorf("challenge of %s: %w", a.origin.host, err)
	}
	if err := a.origin.checkRealm(options.Realm, !c.empty(), a.trusted); err != nil {
		return "", err
	}
	options.Scopes = docker.GetTokenScopes(ctx, options.Scopes)
	scope := strings.Join(options.Scopes, " ")
	a.mu.Lock()
	t, ok := a.tokens[scope]
	a.mu.Unlock()
	if ok && (t.expires.IsZero() || time.Now().Before(t.expires)) {
		return t.value, nil
	}
	if t, err = a.fetchToken(ctx, options); err != nil {
		return "", fmt.Errorf("token from %s: %w", options.Realm, err)
	}
	a.mu.Lock()
	a.tokens[scope] = t
	a.mu.Unlock()
	return t.value, nil
}

// fetchToken tries OAuth2 first where there is a secret, and the older GET
// where the server does not know that, as gcr.io, ACR and Artifactory do not.
func (a *authorizer) fetchToken(ctx context.Context, options auth.TokenOptions) (token, error) {
	client, header := a.tokenClient(options.Realm)
	if options.Secret == "" {
		return a.getToken(ctx, client, header, options)
	}
	r, err := auth.FetchTokenWithOAuth(ctx, client, header, "cri-node", options)
	if err == nil {
		return newToken(r.AccessToken, r.ExpiresInSeconds), nil
	}
	if status, ok := errors.AsType[remoteserrors.ErrUnexpectedStatus](err); ok {
		switch status.StatusCode {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
			if options.Username != "" {
				return a.getToken(ctx, client, header, options)
			}
		}
	}
	return token{}, denied(err)
}

func (a *authorizer) getToken(ctx context.Context, client *http.Client, header http.Header, options auth.TokenOptions) (token, error) {
	r, err := auth.FetchToken(ctx, client, header, options)
	if err != nil {
		return token{}, denied(err)
	}
	return newToken(r.Token, r.ExpiresInSeconds), nil
}

// newToken keeps a token for nine tenths of its life, so that it does not
// expire on the way. Servers that say nothing useful get asked again on 401.
func newToken(value string, seconds int) token {
	t := token{value: value}
	if seconds > 0 && seconds < int(24*time.Hour/time.Second) {
		t.expires = time.Now().Add(time.Duration(seconds) * time.Second * 9 / 10)
	}
	return t
}

// denied marks an error of a token server as one of authorization.
func denied(err error) error {
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden || status.StatusCode == http.StatusBadRequest) {
		return fmt.Errorf("%w: %w", docker.ErrInvalidAuthorization, err)
	}
	return err
}

// maxToken bounds the answer of a token server.
const maxToken = 1 << 20

// tokenClient follows no redirect away from the realm, because the body of the
// request holds the secret. Headers of hosts.toml are for the registry, and go
// to the realm only where that is the same host.
func (a *authorizer) tokenClient(realm string) (*http.Client, http.Header) {
	client := *a.client
	client.Transport = &limited{base: client.Transport, max: maxToken}
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects || !sameHost(via, req) {
			return errors.New("redirect of a token request refused")
		}
		return nil
	}
	if host, err := realmHost(realm); err == nil && strings.EqualFold(host, a.origin.host) {
		return &client, a.header
	}
	return &client, nil
}

// limited fails a response body that is larger than max.
type limited struct {
	base http.RoundTripper
	max  int64
}

func (l *limited) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.base.RoundTrip(req)
	if err == nil {
		resp.Body = &limitedBody{ReadCloser: resp.Body, left: l.max}
	}
	return resp, err
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("response larger than %d bytes: %w", maxToken, errdefs.ErrFailedPrecondition)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

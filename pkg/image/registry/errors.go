package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// ErrUnavailable means that the registry could not be reached or is not able
// to answer now. Its text is the token that kubelet looks for at the start of
// a message.
var ErrUnavailable = errors.New("RegistryUnavailable")

// classified is an error with a class and a text that is safe to show. It does
// not unwrap: what is below may print secrets, so only errors.Is reaches it.
type classified struct {
	class, cause error
	text         string
}

func (e *classified) Error() string { return e.text }

func (e *classified) Is(target error) bool {
	return target == e.class || errors.Is(e.cause, target)
}

// classify turns an error of the library into one of ours. The end of ctx
// comes before what it caused.
func (s *Session) classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if done, ok := errors.AsType[*classified](err); ok {
		return done
	}
	class := classOf(err)
	text := s.scrub.clean(err.Error())
	if class == nil {
		class = errdefs.ErrUnknown
	}
	if errors.Is(class, ErrUnavailable) {
		text = ErrUnavailable.Error() + ": " + text
	}
	return &classified{class: class, cause: err, text: text}
}

func classOf(err error) error {
	var status remoteserrors.ErrUnexpectedStatus
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return errdefs.ErrUnauthenticated
	case errors.As(err, &status):
		return classOfStatus(status.StatusCode)
	case errors.Is(err, errdefs.ErrNotFound):
		return errdefs.ErrNotFound
	case errors.As(err, &dns),
		errors.As(err, &op) && op.Op == "dial",
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isTimeout(err):
		return ErrUnavailable
	default:
		return nil
	}
}

func classOfStatus(code int) error {
	switch {
	case code == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case code == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case code == http.StatusNotFound:
		return errdefs.ErrNotFound
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return ErrUnavailable
	default:
		return nil
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// scrubber takes secrets out of texts: those it was told of, and whatever
// looks like one.
type scrubber struct {
	mu      sync.Mutex
	secrets []string
}

func (s *scrubber) add(c credentials) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range []string{c.secret, c.bearer} {
		if len(secret) >= 4 {
			s.secrets = append(s.secrets, secret)
		}
	}
}

// maxErrorText keeps a registry from filling logs and events through us.
const maxErrorText = 2048

var (
	urlSecrets   = regexp.MustCompile(`(https?://)(?:[^\s"'/@]*@)?([^\s"'?#]*)(?:\?[^\s"']*)?`)
	headerSecret = regexp.MustCompile(`(?i)\b(basic|bearer)\s+[A-Za-z0-9+/=._~-]{6,}`)
	fieldSecret  = regexp.MustCompile(`(?i)\b([a-z0-9_.-]*(?:token|signature|password|passwd|secret|credential|authorization))("?\s*[=:]\s*"?)[^&\s",}]+`)
)

func (s *scrubber) clean(text string) string {
	s.mu.Lock()
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, "REDACTED")
	}
	s.mu.Unlock()
	// What follows these words of the library's is its reason, no secret.
	text = strings.ReplaceAll(text, "may require authorization: ", "may require authorization; ")
	text = urlSecrets.ReplaceAllString(text, "$1$2")
	text = headerSecret.ReplaceAllString(text, "$1 REDACTED")
	text = fieldSecret.ReplaceAllString(text, "${1}${2}REDACTED")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
	if len(text) > maxErrorText {
		text = fmt.Sprintf("%s… (%d bytes more)", strings.ToValidUTF8(text[:maxErrorText], ""), len(text)-maxErrorText)
	}
	return text
}

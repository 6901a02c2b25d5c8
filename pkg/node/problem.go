package node

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// problem is an error in words for a person, with a class that is not said.
type problem struct {
	class error
	text  string
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.class }

func notFound(format string, args ...any) error {
	return &problem{errdefs.ErrNotFound, fmt.Sprintf(format, args...)}
}

func exists(format string, args ...any) error {
	return &problem{errdefs.ErrAlreadyExists, fmt.Sprintf(format, args...)}
}

func refused(format string, args ...any) error {
	return &problem{errdefs.ErrFailedPrecondition, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &problem{errdefs.ErrInvalidArgument, fmt.Sprintf(format, args...)}
}

// short is the beginning of an id that people are shown.
func short(id string) string { return id[:min(len(id), 12)] }

// printable is text of a container's, such as the name of a file, as an answer can
// hold it: bytes that are no UTF-8 would make all of the answer an error.
func printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// inWords says of an OCI runtime's refusal to execute a command only that, with
// its class.
func inWords(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	// The words of runc and crun.
	if i := strings.LastIndex(text, `exec: "`); i >= 0 {
		return &problem{err, "cannot run " + text[i+len("exec: "):]}
	}
	if i := strings.LastIndex(text, "executable file `"); i >= 0 {
		return &problem{err, "cannot run: " + text[i:]}
	}
	return err
}

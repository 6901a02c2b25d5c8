package layer

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxQuoted is how much of a name from a tar is repeated in an error.
const maxQuoted = 256

// quote makes a name from the tar fit to be logged.
func quote(name string) string {
	if len(name) > maxQuoted {
		return strconv.Quote(name[:maxQuoted]) + "..."
	}
	return strconv.Quote(name)
}

// invalidf is an error that is the layer's fault.
func invalidf(format string, args ...any) error {
	return invalid(fmt.Errorf(format, args...))
}

func invalid(err error) error {
	return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
}

// blame marks the kernel's refusals that only an unreasonable entry brings
// about as the layer's fault, and leaves those alone that the node may be to
// blame for, such as a full disk.
func blame(err error) error {
	if err == nil || errors.Is(err, errdefs.ErrInvalidArgument) {
		return err
	}
	for _, errno := range []unix.Errno{
		unix.E2BIG, unix.EEXIST, unix.EFBIG, unix.EINVAL, unix.EISDIR, unix.ELOOP, unix.EMLINK,
		unix.ENAMETOOLONG, unix.ENOTDIR, unix.EOVERFLOW, unix.ERANGE,
	} {
		if errors.Is(err, errno) {
			return invalid(err)
		}
	}
	return err
}

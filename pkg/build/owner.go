package build

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image.
const maxAccounts = 10 << 20

// lookupOwner is the owner that --chown asks for, by the accounts of the tree
// that is written to. A user without a group has its own.
func lookupOwner(root string, o *pb.ChownOpt) (*fscopy.User, error) {
	u := &fscopy.User{}
	switch who := o.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		u.UID, u.GID = int(who.ByID), int(who.ByID)
		if o.GetGroup() == nil {
			u.GID = 0
			if fields, err := account(root, "/etc/passwd", 2, strconv.Itoa(u.UID)); err == nil && len(fields) > 3 {
				u.GID = number(fields[3])
			}
		}
	case *pb.UserOpt_ByName:
		fields, err := account(root, "/etc/passwd", 0, who.ByName.GetName())
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", who.ByName.GetName(), err)
		}
		if len(fields) < 4 || number(fields[2]) < 0 || number(fields[3]) < 0 {
			return nil, fmt.Errorf("user %q has a broken line in /etc/passwd: %w", who.ByName.GetName(), errdefs.ErrInvalidArgument)
		}
		u.UID, u.GID = number(fields[2]), number(fields[3])
	}
	switch group := o.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		u.GID = int(group.ByID)
	case *pb.UserOpt_ByName:
		fields, err := account(root, "/etc/group", 0, group.ByName.GetName())
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", group.ByName.GetName(), err)
		}
		if len(fields) < 3 || number(fields[2]) < 0 {
			return nil, fmt.Errorf("group %q has a broken line in /etc/group: %w", group.ByName.GetName(), errdefs.ErrInvalidArgument)
		}
		u.GID = number(fields[2])
	}
	return u, nil
}

// account finds the line of a file of accounts one field of which is value.
func account(root, file string, field int, value string) ([]string, error) {
	f, err := openInRoot(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: %w", file, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) > field && fields[field] == value {
			return fields, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return nil, fmt.Errorf("not in %s: %w", file, errdefs.ErrNotFound)
}

// number is an id, or -1.
func number(s string) int {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > math.MaxInt32 {
		return -1
	}
	return int(n)
}

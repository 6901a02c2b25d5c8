package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// file runs the actions of a file operation, one after another on one writable
// layer.
func (r *run) file(ctx context.Context, op *pb.FileOp, inputs []result) (res result, err error) {
	var w *workspace
	defer func() {
		if w != nil {
			err = errors.Join(err, w.close(ctx))
		}
	}()
	for i, a := range op.GetActions() {
		first := i == 0
		if !first && a.GetInput() != int64(len(inputs)+i-1) {
			return result{}, fmt.Errorf("file actions that are no chain: %w", errdefs.ErrNotImplemented)
		}
		if first {
			on, err := input(inputs, a.GetInput())
			if err != nil {
				return result{}, err
			}
			if w, err = r.workspace(ctx, on); err != nil {
				return result{}, err
			}
		}
		if err := r.action(ctx, w, a, inputs); err != nil {
			return result{}, err
		}
	}
	if w == nil {
		return result{}, fmt.Errorf("file operation without an action: %w", errdefs.ErrInvalidArgument)
	}
	return w.commit(ctx)
}

// action runs one action in a workspace. Nobody but us can write there, nor to
// what is copied from, so that a path which was resolved inside of it stays so.
func (r *run) action(ctx context.Context, w *workspace, a *pb.FileAction, inputs []result) error {
	switch t := a.GetAction().(type) {
	case *pb.FileAction_Mkdir:
		return relative(w.mkdir(t.Mkdir), w.dir)
	case *pb.FileAction_Mkfile:
		return relative(w.mkfile(t.Mkfile), w.dir)
	case *pb.FileAction_Symlink:
		return relative(w.symlink(t.Symlink), w.dir)
	case *pb.FileAction_Rm:
		return relative(w.rm(t.Rm), w.dir)
	case *pb.FileAction_Copy:
		from, err := input(inputs, a.GetSecondaryInput())
		if err != nil {
			return err
		}
		if a.GetSecondaryInput() >= 0 && a.GetSecondaryInput() == a.GetInput() {
			return relative(r.copy(ctx, w, w.dir, t.Copy), w.dir)
		}
		source, err := r.view(ctx, from)
		if err != nil {
			return err
		}
		return relative(relative(r.copy(ctx, w, source, t.Copy), w.dir), source)
	}
	return fmt.Errorf("file action %T: %w", a.GetAction(), errdefs.ErrNotImplemented)
}

// relativeError hides where on the machine a tree was mounted.
type relativeError struct {
	err  error
	root string
}

func (e *relativeError) Error() string { return strings.ReplaceAll(e.err.Error(), e.root, "") }
func (e *relativeError) Unwrap() error { return e.err }

func relative(err error, root string) error {
	if err == nil {
		return nil
	}
	return &relativeError{err, root}
}

// chowner gives files an owner; without one they keep theirs, and new ones are
// root's.
func (w *workspace) chowner(o *pb.ChownOpt) (fscopy.Chowner, error) {
	if o == nil {
		return func(old *fscopy.User) (*fscopy.User, error) {
			if old == nil {
				return &fscopy.User{}, nil
			}
			return old, nil
		}, nil
	}
	u, err := lookupOwner(w.dir, o)
	if err != nil {
		return nil, err
	}
	return func(*fscopy.User) (*fscopy.User, error) { return u, nil }, nil
}

// stamp is the time of an action; nil is now.
func stamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}

func (w *workspace) mkdir(a *pb.FileActionMkDir) error {
	at, err := securejoin.SecureJoin(w.dir, a.GetPath())
	if err != nil {
		return err
	}
	own, err := w.chowner(a.GetOwner())
	if err != nil {
		return err
	}
	if a.GetMakeParents() {
		_, err = fscopy.MkdirAll(at, os.FileMode(a.GetMode())&0o777, own, stamp(a.GetTimestamp()))
		return err
	}
	if err := os.Mkdir(at, os.FileMode(a.GetMode())&0o777); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return errors.Join(os.Chmod(at, os.FileMode(a.GetMode())&0o777), fscopy.Chown(at, nil, own), fscopy.Utimes(at, stamp(a.GetTimestamp())))
}

// mkfile puts a new file in the place of whatever has its name: a device there
// must not be written to.
func (w *workspace) mkfile(a *pb.FileActionMkFile) error {
	at, err := securejoin.SecureJoin(w.dir, a.GetPath())
	if err != nil {
		return err
	}
	if at == w.dir {
		return &os.PathError{Op: "write", Path: "/", Err: errors.New("is a directory")}
	}
	own, err := w.chowner(a.GetOwner())
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(at), ".build-")
	if err != nil {
		return err
	}
	_, err = f.Write(a.GetData())
	if err = errors.Join(err, f.Close()); err == nil {
		err = errors.Join(fscopy.Chown(f.Name(), nil, own), os.Chmod(f.Name(), os.FileMode(a.GetMode())&0o777), fscopy.Utimes(f.Name(), stamp(a.GetTimestamp())))
	}
	if err == nil {
		err = os.Rename(f.Name(), at)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (w *workspace) symlink(a *pb.FileActionSymlink) error {
	at, err := resolve(w.dir, a.GetNewpath(), false)
	if err != nil {
		return err
	}
	own, err := w.chowner(a.GetOwner())
	if err != nil {
		return err
	}
	if err := os.Symlink(a.GetOldpath(), at); err != nil {
		return err
	}
	return errors.Join(fscopy.Chown(at, nil, own), fscopy.Utimes(at, stamp(a.GetTimestamp())))
}

func (w *workspace) rm(a *pb.FileActionRm) error {
	paths := []string{a.GetPath()}
	if a.GetAllowWildcard() {
		var err error
		if paths, err = fscopy.ResolveWildcards(w.dir, filepath.Join("/", a.GetPath()), false); err != nil {
			return err
		}
	}
	for _, p := range paths {
		at, err := resolve(w.dir, p, false)
		if err != nil {
			return err
		}
		if at == w.dir {
			return &os.PathError{Op: "remove", Path: "/", Err: errors.New("is the root")}
		}
		if _, err := os.Lstat(at); err != nil && !a.GetAllowNotFound() {
			return err
		}
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	return nil
}

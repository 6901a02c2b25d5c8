package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"
)

// source fetches what a build starts from.
func (r *run) source(ctx context.Context, id string, v *vertex, op *pb.SourceOp) (result, error) {
	scheme, rest, _ := strings.Cut(op.GetIdentifier(), "://")
	switch scheme {
	case "docker-image":
		return r.imageSource(ctx, id, rest, op, v.op.GetPlatform())
	case "local":
		return r.localSource(ctx, rest, op)
	case "http", "https":
		return r.httpSource(ctx, id, op)
	case "git":
		return r.gitSource(ctx, id, op)
	}
	return result{}, fmt.Errorf("source %s://: %w", scheme, errdefs.ErrNotImplemented)
}

// local is what a client has sent, in a directory of the build's own.
type local struct {
	dir string
	// pruned are the patterns that were applied to it.
	pruned map[string]bool
}

// localSource is an upload, less what is excluded.
func (r *run) localSource(ctx context.Context, name string, op *pb.SourceOp) (result, error) {
	r.mu.Lock()
	l := r.locals[name]
	r.mu.Unlock()
	if l == nil {
		return result{}, fmt.Errorf("the client has sent no context %q: %w", name, errdefs.ErrNotFound)
	}
	patterns, err := stringList(op.GetAttrs()[pb.AttrExcludePatterns])
	if err != nil {
		return result{}, fmt.Errorf("exclude patterns: %w", err)
	}
	key := strings.Join(patterns, "\n")
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(patterns) > 0 && !l.pruned[key] {
		if err := prune(ctx, l.dir, patterns); err != nil {
			return result{}, err
		}
		if l.pruned == nil {
			l.pruned = map[string]bool{}
		}
		l.pruned[key] = true
	}
	return result{dir: l.dir}, nil
}

// prune deletes what patterns of .dockerignore exclude.
func prune(ctx context.Context, dir string, patterns []string) error {
	pm, err := patternmatcher.New(patterns)
	if err != nil {
		return fmt.Errorf(".dockerignore: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var maybe []string // directories that are excluded, less what is in them
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out, err := pm.MatchesOrParentMatches(rel)
		if err != nil || !out {
			return err
		}
		if !d.IsDir() {
			return os.Remove(path)
		}
		if !pm.Exclusions() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return filepath.SkipDir
		}
		maybe = append(maybe, path)
		return nil
	})
	for i := len(maybe) - 1; i >= 0 && err == nil; i-- {
		_ = os.Remove(maybe[i]) // what has something in it stays
	}
	return err
}

// gitSource clones a repository with the git of this machine.
func (r *run) gitSource(ctx context.Context, id string, op *pb.SourceOp) (result, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return result{}, fmt.Errorf("git contexts and ADD of git repositories need git, which is not installed on this node: %w", errdefs.ErrFailedPrecondition)
	}
	attrs := op.GetAttrs()
	url := attrs[pb.AttrFullRemoteURL]
	_, fragment, _ := strings.Cut(op.GetIdentifier(), "#")
	ref, subdir, _ := strings.Cut(fragment, ":")
	if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "git://") {
		return result{}, fmt.Errorf("git repository %q: only https, http and git are supported: %w", url, errdefs.ErrNotImplemented)
	}
	if strings.HasPrefix(ref, "-") {
		return result{}, fmt.Errorf("git reference %q: %w", ref, errdefs.ErrInvalidArgument)
	}
	dir, err := r.diskDir("git")
	if err != nil {
		return result{}, err
	}
	tree := filepath.Join(dir, "tree")
	if ref == "" {
		ref = "HEAD"
	}
	out := r.progress.writer(id, 2)
	g := gitCommand{program: git, dir: tree, home: dir, out: out}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return result{}, err
	}
	for _, args := range [][]string{
		{"init", "-q"},
		{"fetch", "-q", "--depth=1", "--no-tags", "--", url, ref},
		{"checkout", "-q", "FETCH_HEAD"},
	} {
		if err := g.run(ctx, args...); err != nil {
			return result{}, err
		}
	}
	if want := attrs[pb.AttrGitChecksum]; want != "" {
		got, err := g.output(ctx, "rev-parse", "HEAD")
		if err != nil {
			return result{}, err
		}
		if !strings.HasPrefix(got, want) {
			return result{}, fmt.Errorf("git repository %s: commit is %s, want %s: %w", url, got, want, errdefs.ErrFailedPrecondition)
		}
	}
	if attrs[pb.AttrGitSkipSubmodules] != "true" {
		if err := g.run(ctx, "submodule", "update", "-q", "--init", "--recursive", "--depth=1"); err != nil {
			return result{}, err
		}
	}
	if attrs[pb.AttrKeepGitDir] != "true" {
		if err := os.RemoveAll(filepath.Join(tree, ".git")); err != nil {
			return result{}, err
		}
	}
	at, err := resolve(tree, subdir, true)
	return result{dir: at}, err
}

// gitDelay is how long the output of a git is read that was killed.
const gitDelay = 5 * time.Second

// gitCommand runs git without anything of this machine's configuration: the
// repository is a stranger's.
type gitCommand struct {
	program, dir, home string
	out                io.Writer
}

func (g *gitCommand) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, g.program, append([]string{"-c", "protocol.allow=never", "-c", "protocol.https.allow=always",
		"-c", "protocol.http.allow=always", "-c", "protocol.git.allow=always", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"}, args...)...)
	c.Dir = g.dir
	c.Env = []string{"HOME=" + g.home, "PATH=" + os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_LFS_SKIP_SMUDGE=1"}
	c.Stderr = g.out
	// What git has started, such as the helper that talks to a server which does
	// not answer, ends with it.
	c.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	c.WaitDelay = gitDelay
	return c
}

func (g *gitCommand) run(ctx context.Context, args ...string) error {
	if err := g.command(ctx, args...).Run(); err != nil {
		return fmt.Errorf("git %s: %w", args[0], err)
	}
	return nil
}

func (g *gitCommand) output(ctx context.Context, args ...string) (string, error) {
	b, err := g.command(ctx, args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(b)), nil
}

// fileMode reads an octal mode; empty is def.
func fileMode(s string, def os.FileMode) (os.FileMode, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, errors.Join(fmt.Errorf("mode %q: %w", s, errdefs.ErrInvalidArgument), err)
	}
	return os.FileMode(n) & 0o777, nil
}

package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ExitError is a process of a build that did not end well.
type ExitError struct {
	Command string
	Code    int
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("process %q did not complete successfully: exit code: %d", e.Command, e.Code)
}

// exec runs a process in a container.
func (r *run) exec(ctx context.Context, id string, op *pb.ExecOp, inputs []result) (res result, err error) {
	if err := r.checkExec(op); err != nil {
		return result{}, err
	}
	on, err := rootInput(op, inputs)
	if err != nil {
		return result{}, err
	}
	if on, err = r.layered(ctx, on); err != nil {
		return result{}, err
	}
	m := &execMounts{run: r}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	if err := m.takeCaches(ctx, op.GetMounts(), inputs); err != nil {
		return result{}, err
	}
	// Whoever waits for a cache mount must not keep others from running.
	if err := r.execs.Acquire(ctx, 1); err != nil {
		return result{}, context.Cause(ctx)
	}
	defer r.execs.Release(1)
	for _, mount := range op.GetMounts() {
		if mount.GetDest() == pb.RootMount {
			continue
		}
		if err := m.add(ctx, mount, inputs); err != nil {
			return result{}, fmt.Errorf("mount on %s: %w", mount.GetDest(), err)
		}
	}
	p, err := r.process(op, m.mounts)
	if err != nil {
		return result{}, err
	}
	// What the process sees in its config is what it asked for and no more.
	image, release, err := r.config.Images.Stack(on.stack(), ocispec.Image{Config: ocispec.ImageConfig{
		Env: p.Env, WorkingDir: p.Cwd, User: p.User, Entrypoint: p.Args,
	}})
	if err != nil {
		return result{}, err
	}
	defer release()
	stubs, err := r.findStubs(ctx, on, op)
	if err != nil {
		return result{}, err
	}
	p.Image = image
	p.Stdout, p.Stderr = r.progress.writer(id, 1), r.progress.writer(id, 2)
	p.Finish = func(ctx context.Context, rootfs, dir string) (err error) {
		if err := stubs.remove(dir); err != nil {
			return fmt.Errorf("remove what mounts have left: %w", err)
		}
		res, err = r.take(ctx, rootfs, on.layers)
		return err
	}
	code, err := r.config.Executor.Run(ctx, p)
	switch {
	case ctx.Err() != nil:
		return result{}, errors.Join(context.Cause(ctx), err)
	case err != nil:
		return result{}, err
	case code != 0 && !slices.Contains(op.GetMeta().GetValidExitCodes(), int32(code)): //nolint:gosec // codes are below 256
		return result{}, &ExitError{strings.Join(p.Args, " "), code}
	}
	return res, nil
}

// checkExec refuses what the build was not allowed.
func (r *run) checkExec(op *pb.ExecOp) error {
	if op.GetSecurity() == pb.SecurityMode_INSECURE {
		if err := r.allowed("security.insecure"); err != nil {
			return fmt.Errorf("RUN --security=insecure: %w", err)
		}
	}
	if op.GetNetwork() == pb.NetMode_HOST && r.request.Network != "host" {
		if err := r.allowed("network.host"); err != nil {
			return fmt.Errorf("RUN --network=host: %w", err)
		}
	}
	if len(op.GetCdiDevices()) > 0 {
		return fmt.Errorf("RUN --device: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// rootInput is what the root file system is made from.
func rootInput(op *pb.ExecOp, inputs []result) (result, error) {
	for _, m := range op.GetMounts() {
		if m.GetDest() != pb.RootMount {
			if m.GetOutput() >= 0 && !m.GetReadonly() && m.GetMountType() == pb.MountType_BIND && m.GetOutput() != int64(pb.SkipOutput) {
				return result{}, fmt.Errorf("output of the mount on %s: %w", m.GetDest(), errdefs.ErrNotImplemented)
			}
			continue
		}
		return input(inputs, m.GetInput())
	}
	return result{}, fmt.Errorf("process without a root file system: %w", errdefs.ErrInvalidArgument)
}

// process translates the metadata of an operation.
func (r *run) process(op *pb.ExecOp, mounts []Mount) (Process, error) {
	meta := op.GetMeta()
	p := Process{
		Args: meta.GetArgs(), Env: slices.Clone(meta.GetEnv()), Cwd: meta.GetCwd(), User: meta.GetUser(),
		Hostname: meta.GetHostname(), Mounts: mounts,
		Privileged: op.GetSecurity() == pb.SecurityMode_INSECURE,
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	switch op.GetNetwork() {
	case pb.NetMode_HOST:
		p.Network = NetworkHost
	case pb.NetMode_NONE:
		p.Network = NetworkNone
	default:
		p.Network = NetworkPod
	}
	for _, h := range meta.GetExtraHosts() {
		p.ExtraHosts = append(p.ExtraHosts, h.GetIP()+" "+h.GetHost())
	}
	for _, u := range meta.GetUlimit() {
		p.Ulimits = append(p.Ulimits, Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	if proxy := meta.GetProxyEnv(); proxy != nil {
		p.Env = append(p.Env, proxyEnv(proxy)...)
	}
	for _, s := range op.GetSecretenv() {
		value, ok := r.request.Secrets[s.GetID()]
		if !ok {
			if s.GetOptional() {
				continue
			}
			return p, missingSecret(s.GetID())
		}
		p.Env = append(p.Env, s.GetName()+"="+string(value))
	}
	return p, nil
}

func missingSecret(id string) error {
	return fmt.Errorf("secret %s: not found: give it with --secret id=%s,src=FILE: %w", id, id, errdefs.ErrNotFound)
}

// proxyEnv are the variables of proxies, in both spellings, which are no part of
// the image or of what results are found by.
func proxyEnv(p *pb.ProxyEnv) []string {
	var env []string
	for name, value := range map[string]string{
		"HTTP_PROXY": p.GetHttpProxy(), "HTTPS_PROXY": p.GetHttpsProxy(), "FTP_PROXY": p.GetFtpProxy(),
		"NO_PROXY": p.GetNoProxy(), "ALL_PROXY": p.GetAllProxy(),
	} {
		if value != "" {
			env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	slices.Sort(env)
	return env
}

// stub is a mount point that the runtime makes, and what was there before.
type stub struct {
	path string
	info os.FileInfo // of its parent
}

// stubs are all mount points of a process that are not in its root file system.
type stubs []stub

// alwaysMounted is what the runtime mounts in every container.
var alwaysMounted = []string{"/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run"}

// findStubs looks, before the process runs, which mount points are missing: what
// is made for them must not get into the layer.
func (r *run) findStubs(ctx context.Context, on result, op *pb.ExecOp) (stubs, error) {
	root, err := r.view(ctx, on)
	if err != nil {
		return nil, err
	}
	var all stubs
	seen := map[string]bool{}
	targets := slices.Clone(alwaysMounted)
	for _, m := range op.GetMounts() {
		targets = append(targets, m.GetDest())
	}
	for _, target := range targets {
		// Every missing parent is a stub, too.
		for p := filepath.Clean("/" + target); p != "/"; p = filepath.Dir(p) {
			at, err := resolve(root, p, false)
			if err != nil {
				return nil, err
			}
			if _, err := os.Lstat(at); err == nil {
				break
			}
			rel := strings.TrimPrefix(at, root)
			if seen[rel] {
				continue
			}
			seen[rel] = true
			parent, _ := os.Lstat(filepath.Dir(at)) // nil where it is missing, too
			all = append(all, stub{path: rel, info: parent})
		}
	}
	// The deepest first.
	slices.SortFunc(all, func(a, b stub) int { return strings.Count(b.path, "/") - strings.Count(a.path, "/") })
	return all, nil
}

// remove takes away mount points that are still as the runtime has made them:
// empty files and directories. The process may have put links in the way, which
// are not followed out of root (CVE-2024-23652).
func (s stubs) remove(root string) error {
	for _, one := range s {
		at, err := resolve(root, one.path, false)
		if err != nil {
			return err
		}
		if strings.TrimPrefix(at, root) != one.path {
			continue // a link leads elsewhere now
		}
		info, err := os.Lstat(at)
		if err != nil || !info.IsDir() && (!info.Mode().IsRegular() || info.Size() > 0) {
			continue
		}
		if err := os.Remove(at); err != nil { // refuses a directory with something in it
			continue
		}
		if one.info != nil {
			if err := os.Chtimes(filepath.Dir(at), one.info.ModTime(), one.info.ModTime()); err != nil {
				return err
			}
		}
	}
	return nil
}

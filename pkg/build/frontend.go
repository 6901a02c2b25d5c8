package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// frontend is what BuildKit's front end takes for BuildKit.
type frontend struct {
	run  *run
	opts map[string]string
}

// maxDockerfile bounds a definition.
const maxDockerfile = 4 << 20

// convert makes the graph of the Dockerfile and runs it.
func (r *run) convert(ctx context.Context) (*target, error) {
	if len(r.request.Platforms) > 1 {
		return nil, fmt.Errorf("images of several platforms: build for one at a time: %w", errdefs.ErrNotImplemented)
	}
	if err := r.placeDockerfile(); err != nil {
		return nil, err
	}
	f := &frontend{run: r, opts: r.options()}
	ui, err := dockerui.NewClient(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	src, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return nil, err
	}
	if n := len(src.Data); n > maxDockerfile { // the front end's own bound is larger
		return nil, tooLarge(src.Filename, int64(n))
	}
	if err := checkExpansion(src.Data, r.request.BuildArgs); err != nil {
		return nil, err
	}
	o := dockerfile2llb.ConvertOpt{
		Config: ui.Config, Client: ui, SourceMap: src.SourceMap, MetaResolver: f,
		Warn: func(rule, _, _, text string, where []parser.Range) {
			line := 0
			if len(where) > 0 {
				line = where[0].Start.Line
			}
			r.progress.to.Warn(linter.LintFormatShort(rule, text, line))
		},
	}
	if len(ui.TargetPlatforms) > 0 {
		o.TargetPlatform = &ui.TargetPlatforms[0]
	}
	o.BuildArgs = maps.Clone(ui.BuildArgs)
	made, err := dockerfile2llb.Dockerfile2LLB(ctx, src.Data, o)
	if err != nil {
		return nil, located(err, src.SourceMap)
	}
	r.setEpoch(made.Epoch)
	def, err := made.State.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("make graph of the Dockerfile: %w", err)
	}
	res, err := r.solveDefinition(ctx, def.ToPB())
	if err != nil {
		return nil, err
	}
	return &target{result: res, image: made.Image, base: made.BaseImage}, nil
}

// located adds the line of the Dockerfile that an error is about.
func located(err error, src *llb.SourceMap) error {
	var at *parser.LocationError
	if !errors.As(err, &at) || len(at.Locations) == 0 || len(at.Locations[0]) == 0 {
		return err
	}
	line := at.Locations[0][0].Start.Line
	lines := strings.Split(string(src.Data), "\n")
	if line < 1 || line > len(lines) {
		return err
	}
	return fmt.Errorf("%s:%d: %s: %w", src.Filename, line, strings.TrimSpace(lines[line-1]), err)
}

// placeDockerfile puts the definition where the front end looks for it.
func (r *run) placeDockerfile() error {
	if r.request.DockerfileName == "" {
		r.request.DockerfileName = dockerui.DefaultDockerfileName
	}
	if n := len(r.request.Dockerfile); n > maxDockerfile {
		return tooLarge(r.request.DockerfileName, int64(n))
	}
	if r.request.Dockerfile == nil {
		r.locals[dockerui.DefaultLocalNameDockerfile] = r.locals[dockerui.DefaultLocalNameContext]
		return nil
	}
	dir, err := r.diskDir("dockerfile")
	if err != nil {
		return err
	}
	r.request.DockerfileName = filepath.Base(r.request.DockerfileName)
	file := filepath.Join(dir, r.request.DockerfileName)
	if err := os.WriteFile(file, r.request.Dockerfile, 0o600); err != nil {
		return err
	}
	r.locals[dockerui.DefaultLocalNameDockerfile] = &local{dir: dir}
	if r.request.Dockerignore == nil {
		return nil
	}
	return os.WriteFile(file+".dockerignore", r.request.Dockerignore, 0o600)
}

// options are the request in the words of the front end.
func (r *run) options() map[string]string {
	q := r.request
	o := map[string]string{"filename": q.DockerfileName}
	set := func(key, value string) {
		if value != "" {
			o[key] = value
		}
	}
	for k, v := range q.BuildArgs {
		o["build-arg:"+k] = v
	}
	for k, v := range q.Labels {
		o["label:"+k] = v
	}
	for k, v := range q.Contexts {
		o["context:"+k] = v
	}
	set("target", q.Target)
	if q.NoCache {
		o["no-cache"] = ""
	} else {
		set("no-cache", strings.Join(q.NoCacheFilter, ","))
	}
	if q.Pull {
		o["image-resolve-mode"] = pb.AttrImageResolveModeForcePull
	}
	set("platform", strings.Join(q.Platforms, ","))
	if q.Network != "default" {
		set("force-network-mode", q.Network)
	}
	set("add-hosts", strings.Join(q.ExtraHosts, ","))
	if q.ShmSize > 0 {
		o["shm-size"] = strconv.FormatInt(q.ShmSize, 10)
	}
	var limits []string
	for _, u := range q.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	set("ulimit", strings.Join(limits, ","))
	if q.ContextURL != "" {
		o["context"] = q.ContextURL
		if q.Dockerfile != nil {
			o["dockerfilekey"] = dockerui.DefaultLocalNameDockerfile
		}
	}
	return o
}

// BuildOpts is what was asked for, and that everything is possible.
func (f *frontend) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts: f.opts, SessionID: "client", Product: "cri-node",
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Caps:    gatewaypb.Caps.CapSet(gatewaypb.Caps.All()),
	}
}

// Solve runs a graph that the front end wants to look into before it goes on: a
// context that has to be fetched.
func (f *frontend) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	res, err := f.run.solveDefinition(ctx, req.Definition)
	if err != nil {
		return nil, err
	}
	out := client.NewResult()
	out.SetRef(&reference{run: f.run, result: res})
	return out, nil
}

// Inputs are none.
func (f *frontend) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil } //nolint:nilnil // no map is an empty one

// NewContainer is for front ends that run something themselves.
func (f *frontend) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errdefs.ErrNotImplemented
}

// Warn tells people.
func (f *frontend) Warn(_ context.Context, _ digest.Digest, text string, _ client.WarnOpts) error {
	f.run.progress.to.Warn(text)
	return nil
}

// ResolveSourceMetadata is for attestations and dates of commits.
func (f *frontend) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return nil, fmt.Errorf("metadata of %s: %w", op.GetIdentifier(), errdefs.ErrNotImplemented)
}

// reference lets the front end read a result.
type reference struct {
	run    *run
	result result
}

// ReadFile reads a part of a file.
func (r *reference) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	f, err := r.open(ctx, req.Filename)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if req.Range != nil {
		return io.ReadAll(io.NewSectionReader(f, int64(req.Range.Offset), int64(req.Range.Length)))
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxDockerfile {
		return nil, tooLarge(req.Filename, info.Size())
	}
	return io.ReadAll(io.LimitReader(f, maxDockerfile))
}

// tooLarge refuses a definition.
func tooLarge(name string, size int64) error {
	return fmt.Errorf("%s has %d bytes, at most %d are allowed: %w", name, size, maxDockerfile, errdefs.ErrInvalidArgument)
}

func (r *reference) open(ctx context.Context, name string) (*os.File, error) {
	dir, err := r.run.view(ctx, r.result)
	if err != nil {
		return nil, err
	}
	f, err := openInRoot(dir, name)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: bare(err)}
	}
	return f, nil
}

// StatFile says how large a file is.
func (r *reference) StatFile(ctx context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	f, err := r.open(ctx, req.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: req.Path, Size: info.Size(), Mode: uint32(info.Mode())}, nil
}

// ToState, Evaluate and ReadDir are for front ends of other kinds.
func (r *reference) ToState() (llb.State, error) { return llb.State{}, errdefs.ErrNotImplemented }

// Evaluate has happened.
func (r *reference) Evaluate(context.Context) error { return nil }

// ReadDir is not needed for Dockerfiles.
func (r *reference) ReadDir(context.Context, client.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errdefs.ErrNotImplemented
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/build"
	"github.com/cri-node/cri-node/pkg/guard"
	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// OpenBuilder takes away what builds have left that a dead daemon ran, and makes
// new ones possible. cacheBytes bounds their cache; 0 is a default.
func (s *Server) OpenBuilder(ctx context.Context, cacheBytes int64) error {
	e := executor{cri: s.config.CRI, containers: s.config.Containers}
	for _, sb := range s.config.Sandboxes.List() {
		if st := sb.Status(); st.Params.Owner == buildOwner {
			if err := e.remove(ctx, st.ID); err != nil {
				klog.FromContext(ctx).Error(err, "Cannot remove what a build has left", "sandboxID", st.ID)
			}
		}
	}
	b, err := build.Open(ctx, build.Config{
		Root: filepath.Join(s.config.Root, "build"), State: filepath.Join(s.config.State, "build"),
		Images: s.config.Images, Executor: e, CacheBytes: cacheBytes,
	})
	if err != nil {
		return err
	}
	s.builder.builds = b
	return nil
}

// Prune implements nodev1.BuilderServer.
func (s *builder) Prune(ctx context.Context, r *nodev1.PruneBuildRequest) (*nodev1.PruneBuildResponse, error) {
	n, err := s.builds.Prune(ctx, r.GetAll())
	if err != nil {
		return nil, fmt.Errorf("prune cache of builds: %w", err)
	}
	return &nodev1.PruneBuildResponse{Reclaimed: n}, nil
}

// Build implements nodev1.BuilderServer.
func (s *builder) Build(stream grpc.BidiStreamingServer[nodev1.BuildRequest, nodev1.BuildResponse]) (err error) {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return fmt.Errorf("the first message of a build must have open: %w", errdefs.ErrInvalidArgument)
	}
	bounded, stop := s.bound(stream.Context())
	defer stop()
	ctx, cancel := context.WithCancelCause(bounded)
	defer cancel(nil)
	out := newBuildSender(stream, cancel)
	defer out.close()
	in := newBuildReceiver(stream, out)
	dirs, cleanup, err := s.uploads(open)
	defer func() { err = errors.Join(err, cleanup()) }()
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	// Recv returns when the handler has: nobody need wait for it.
	go func() {
		received <- guard.Call(klog.FromContext(ctx), "the receiver of a build", func() error { return in.run(ctx, dirs) })
	}()
	select {
	case <-in.complete:
	case err := <-received:
		return fmt.Errorf("receive build context: %w", err)
	}
	// From here on the receiver ends with the client only.
	go func() {
		if err := <-received; err != nil {
			cancel(fmt.Errorf("the client of the build has gone: %w", errors.Join(err, errdefs.ErrAborted)))
		}
	}()
	request, err := requestOf(open)
	if err != nil {
		return err
	}
	request.Uploads, request.Events, request.Dial = dirs, out, in.dial
	request.Output.Writer = out
	defer s.trimBuilds()
	res, err := s.builds.Build(ctx, request)
	if err == nil {
		out.result(&nodev1.BuildResponse_Result{ImageId: res.ImageID, Names: res.Names, ManifestDigest: s.manifest(res.ImageID)})
	}
	return err
}

// trimBuilds brings the cache of builds within its limit.
func (s *builder) trimBuilds() {
	s.background.Go(func() {
		log := klog.FromContext(s.life)
		err := guard.Call(log, "the trimming of the cache of builds", func() error { return s.builds.Trim(s.life) })
		if err != nil && s.life.Err() == nil {
			log.Error(err, "The cache of builds is larger than it may be")
		}
	})
}

// manifest is the digest of an image's manifest, where it has one.
func (s *builder) manifest(id string) string {
	if id == "" {
		return ""
	}
	img, err := s.config.Images.Resolve(id)
	if err != nil {
		return ""
	}
	return img.Manifest.String()
}

// mainContext is how the front end calls the context of a build.
const mainContext = "context"

// uploads makes directories for all contexts that the client will send.
func (s *builder) uploads(open *nodev1.BuildOpen) (dirs map[string]string, cleanup func() error, err error) {
	dirs = map[string]string{}
	cleanup = func() error {
		var errs []error
		for _, d := range dirs {
			errs = append(errs, os.RemoveAll(d))
		}
		return errors.Join(errs...)
	}
	names := []string{mainContext}
	if open.GetContextUrl() != "" {
		names = nil
	}
	for _, to := range open.GetContexts() {
		if name, ok := strings.CutPrefix(to, "local:"); ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if dirs[name] != "" {
			return dirs, cleanup, fmt.Errorf("two contexts called %q: %w", name, errdefs.ErrInvalidArgument)
		}
		if dirs[name], err = s.builds.Upload(); err != nil {
			return dirs, cleanup, err
		}
	}
	return dirs, cleanup, nil
}

// requestOf translates a request.
func requestOf(open *nodev1.BuildOpen) (*build.Request, error) {
	r := &build.Request{
		DockerfileName: open.GetDockerfileName(), Tags: open.GetTags(), BuildArgs: open.GetBuildArgs(), Labels: open.GetLabels(),
		Target: open.GetTarget(), NoCache: open.GetNoCache(), NoCacheFilter: open.GetNoCacheFilter(), Pull: open.GetPull(),
		Platforms: open.GetPlatforms(), Secrets: open.GetSecrets(), Agents: open.GetAgents(), Network: open.GetNetwork(),
		ExtraHosts: open.GetExtraHosts(), ShmSize: open.GetShmSize(), Contexts: open.GetContexts(), ContextURL: open.GetContextUrl(),
		Allow: open.GetAllow(), Output: build.Output{Type: open.GetOutput().GetType()},
	}
	if len(open.GetDockerfile()) > 0 {
		r.Dockerfile = open.GetDockerfile()
	}
	if len(open.GetDockerignore()) > 0 {
		r.Dockerignore = open.GetDockerignore()
	}
	for _, t := range open.GetTags() {
		if _, err := image.ParseReference(t); err != nil {
			return nil, fmt.Errorf("tag: %w", err)
		}
	}
	for _, u := range open.GetUlimits() {
		r.Ulimits = append(r.Ulimits, build.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	auths := open.GetAuths()
	r.Auth = func(ref string) *image.Auth { return authFor(auths, ref) }
	return r, nil
}

// authFor finds the credentials for a base image.
func authFor(auths map[string]*runtimeapi.AuthConfig, ref string) *image.Auth {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	host := reference.Domain(named)
	hosts := []string{host, "https://" + host}
	if host == "docker.io" {
		hosts = append(hosts, "https://index.docker.io/v1/", "index.docker.io")
	}
	for _, h := range hosts {
		if a := auths[h]; a != nil {
			return &image.Auth{
				Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
				IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
			}
		}
	}
	return nil
}

// errNoContext ends an upload that the client did not finish.
var errNoContext = fmt.Errorf("the client ended before its build context did: %w", io.ErrUnexpectedEOF)

package node

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/node/names"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Limits of what is done in the name of a client that may go away meanwhile.
const (
	createLimit = 4 * time.Minute
	undoLimit   = 2 * time.Minute
)

// Create makes a container in a pod of its own, or in another's. All or nothing
// of it is there afterwards, also where the client goes away in the middle.
func (s *containers) Create(ctx context.Context, r *nodev1.CreateRequest) (*nodev1.CreateResponse, error) {
	p, err := s.plan(r)
	if err != nil {
		return nil, err
	}
	e := newEntry(p.record)
	if err := s.table.add(e, names.Random); err != nil {
		return nil, err
	}
	unlock, err := e.lock(ctx)
	if err != nil {
		s.table.forget(e)
		s.table.left(e)
		return nil, err
	}
	defer unlock()
	if err := s.make(ctx, e, p); err != nil {
		return nil, errors.Join(err, s.undo(ctx, e))
	}
	return &nodev1.CreateResponse{Id: e.id, Name: e.name(), Warnings: p.warnings}, nil
}

// make does what was planned. What it has done when it fails is undone by undo.
func (s *Server) make(ctx context.Context, e *entry, p *plan) error {
	// What makes pods goes on when its caller is gone, so that it has to be
	// waited for, to be undone.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), createLimit)
	defer cancel()
	p.nameIt(e.name())
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return s.update(e, func(*record) {}) },
		func(ctx context.Context) error { return s.makeVolumes(ctx, e) },
		func(ctx context.Context) error { return s.makePod(ctx, p) },
		func(ctx context.Context) error { return s.makeContainer(ctx, e, p) },
		func(ctx context.Context) error { return s.fillVolumes(ctx, e, p) },
		func(context.Context) error {
			return s.update(e, func(r *record) {
				r.Creating = false
				for i := range r.Volumes {
					r.Volumes[i].Made = false
				}
			})
		},
	} {
		if err := step(work); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *Server) makePod(ctx context.Context, p *plan) error {
	if p.pod == nil {
		return nil // another's
	}
	release, err := s.claimPorts(ctx, p.record.PodID, portMappings(p.pod))
	if err != nil {
		return err
	}
	defer release()
	_, err = s.config.CRI.CreatePod(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.pod, RuntimeHandler: p.handler}, cri.Extras{
		ID: p.record.PodID, Owner: Owner, NoNetwork: p.request.GetNoNetwork(), ShmSize: p.request.GetShmSize(), ExtraHosts: p.hosts,
	})
	return err
}

func (s *Server) makeContainer(ctx context.Context, e *entry, p *plan) error {
	for _, v := range p.record.Volumes {
		p.container.Mounts = append(p.container.Mounts, &runtimeapi.Mount{
			HostPath: s.volumes.Path(v.Name), ContainerPath: v.Path, Readonly: v.Readonly,
		})
	}
	extras := cri.Extras{
		ID: e.id, LogPath: s.logPath(e.id), Ulimits: p.ulimits,
		Init: p.request.GetInit(), StopSignal: p.request.GetStopSignal(), NoEntrypoint: p.request.GetEntrypointCleared(),
		User: p.request.GetUser(), Groups: p.request.GetGroupAdd(), PidsLimit: p.request.GetPidsLimit(),
	}
	for _, t := range p.request.GetTmpfs() {
		extras.Tmpfs = append(extras.Tmpfs, cri.Tmpfs{Path: t.GetPath(), Options: t.GetOptions()})
	}
	_, err := s.config.CRI.CreateIn(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.record.PodID, Config: p.container, SandboxConfig: p.pod,
	}, extras)
	return inWords(err)
}

// inPod lists the containers of people's in a pod, but one.
func (s *Server) inPod(podID, but string) []*entry {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	var list []*entry
	for id, e := range s.table.byID {
		if id != but && e.record().PodID == podID {
			list = append(list, e)
		}
	}
	return list
}

// resolveImage finds the image of a container to be made.
func (s *Server) resolveImage(name string) (string, error) {
	img, err := s.config.Images.Resolve(name)
	if errdefs.IsNotFound(err) {
		return "", notFound("image %q is not on this node: \"cri-node pull %s\" gets it", name, name)
	}
	if err != nil {
		return "", err
	}
	return img.ID, nil
}

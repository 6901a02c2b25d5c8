package cri

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/stats"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// nodeWith returns a server of a node with so many containers, each in a pod of
// its own and with what kubelet gives it.
func nodeWith(t testing.TB, n int) *Server {
	t.Helper()
	return nodeOf(t, n, func(*runtime.Params, *sandbox.Params) {})
}

// nodeOf is nodeWith, and lets a test edit what is made.
func nodeOf(t testing.TB, n int, edit func(*runtime.Params, *sandbox.Params)) *Server {
	t.Helper()
	dir := t.TempDir()
	save := func(kind, id string, record any) {
		d := filepath.Join(dir, "root", kind, id)
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := linux.SaveRecord(filepath.Join(d, "record.json"), record, linux.SurviveProcess); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		id, name := fmt.Sprintf("%064x", i), fmt.Sprintf("pod-%d", i)
		labels := map[string]string{"io.kubernetes.container.name": "main", "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": id[32:]}
		annotations := map[string]string{
			"io.kubernetes.container.hash": "8f5b7e3d", "io.kubernetes.container.restartCount": "0", "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File", "io.kubernetes.pod.terminationGracePeriod": "30",
		}
		image := &runtimeapi.ImageSpec{Image: "sha256:" + id, UserSpecifiedImage: "registry.example/app:1"}
		view := &containerView{ImageRef: "registry.example/app@sha256:" + id, UserSpecifiedImage: image.UserSpecifiedImage, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: image, Labels: labels, Annotations: annotations,
		}}
		request, err := view.encode()
		if err != nil {
			t.Fatal(err)
		}
		c := runtime.Params{
			ID: id, Group: id, Name: "main", Handler: "h", ImageID: image.Image, Labels: labels, Annotations: annotations, Request: request,
		}
		pod := &sandboxView{Config: &runtimeapi.PodSandboxConfig{Labels: labels, Annotations: annotations}}
		if request, err = pod.encode(); err != nil {
			t.Fatal(err)
		}
		p := sandbox.Params{
			Key: sandbox.Key{Namespace: "default", Name: name, UID: id[32:]}, Labels: labels, Annotations: annotations, Request: request,
		}
		edit(&c, &p)
		save("containers", id, runtime.Status{State: runtime.Exited, CreatedAt: time.Now(), Params: c})
		save("sandboxes", id, map[string]any{"id": id, "state": sandbox.NotReady, "createdAt": time.Now(), "params": p})
	}
	s := &Server{stats: stats.New(nil), events: newEventLog(), config: Config{MaxMessage: 16 << 20,
		Sandboxes:  sandbox.NewManager(sandbox.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Network: noNetwork{}}),
		Containers: runtime.NewManager(runtime.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")}),
	}}
	if err := s.config.Containers.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.config.Sandboxes.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// What is sent of a list is what the objects are, also after a change, and also
// by a server that has listed them before.
func TestListsAreTrue(t *testing.T) {
	s := nodeWith(t, 3)
	for range 2 {
		list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]*runtimeapi.Container{}
		for _, c := range received(t, list).GetContainers() {
			got[c.GetId()] = c
		}
		for _, c := range s.config.Containers.List() {
			st := c.Status()
			want := &runtimeapi.Container{
				Id: st.ID, PodSandboxId: st.Group, Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
				Image: s.containerView(st).Config.GetImage(), ImageRef: s.containerView(st).ImageRef, ImageId: st.ImageID,
				CreatedAt: st.CreatedAt.UnixNano(), Labels: st.Labels, Annotations: st.Annotations,
			}
			if !proto.Equal(got[st.ID], want) {
				t.Errorf("listed %v, want %v", got[st.ID], want)
			}
		}
	}
	// One changes, one goes.
	changed, gone := s.config.Containers.List()[0], s.config.Containers.List()[1]
	view := s.containerView(changed.Status())
	view.ImageRef = "another"
	request, err := view.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := changed.SetRequest(request); err != nil {
		t.Fatal(err)
	}
	s.drop(gone.ID())
	list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: changed.ID()}})
	if err != nil {
		t.Fatal(err)
	}
	if got := received(t, list).GetContainers(); len(got) != 1 || got[0].GetImageRef() != "another" {
		t.Errorf("after a change: %v", got)
	}
	pods, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, pod := range received(t, pods).GetItems() {
		st := s.sandboxes().List()[i].Status()
		if pod.GetId() != st.ID || pod.GetMetadata().GetName() != st.Params.Name || len(pod.GetAnnotations()) != len(st.Params.Annotations) ||
			pod.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("listed %v", pod)
		}
	}
}

// Of what has gone nothing is kept, also where it was looked at too late.
func TestNothingIsKeptOfWhatHasGone(t *testing.T) {
	s := nodeWith(t, 1)
	st := *s.config.Containers.List()[0].Status()
	st.ID = "gone"
	s.containerView(&st)
	s.listedContainer(&st)
	s.listedAttributes(&st)
	pod := s.sandboxes().List()[0].Status()
	pod.ID = "gone"
	s.sandboxView(&pod)
	s.listedSandbox(&pod, runtimeapi.PodSandboxState_SANDBOX_READY)
	for _, kept := range []*sync.Map{&s.views.m, &s.listings.m} {
		for _, key := range []string{"gone", "gone" + attributesOf} {
			if _, ok := kept.Load(key); ok {
				t.Error("something is kept")
			}
		}
	}
}

// received is a message as a client gets it.
func received[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out, ok := m.ProtoReflect().New().Interface().(M)
	if err := proto.Unmarshal(wire, out); err != nil || !ok {
		t.Fatal(err, ok)
	}
	return out
}

// connect serves on a socket of the test, and connects to it.
func connect(t testing.TB, s *Server) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(s.serverOptions()...)
	runtimeapi.RegisterRuntimeServiceServer(server, s)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		served.Wait()
	})
	return conn
}

// A list that is sent as it was encoded for the last one is that of now, for each
// of several callers.
func TestKeptLists(t *testing.T) {
	s := nodeWith(t, 20)
	client := runtimeapi.NewRuntimeServiceClient(connect(t, s))
	exited := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	one := &runtimeapi.ContainerFilter{Id: fmt.Sprintf("%064x", 7)}
	var kept *runtimeapi.ListContainersResponse
	for round := range 5 {
		var callers sync.WaitGroup
		for filter, want := range map[*runtimeapi.ContainerFilter]int{nil: 20, exited: 20, running: 0, one: 1} {
			callers.Go(func() {
				r, err := client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: filter})
				if err != nil || len(r.GetContainers()) != want {
					t.Errorf("with %v: %d containers, want %d (%v)", filter, len(r.GetContainers()), want, err)
				}
			})
		}
		callers.Go(func() {
			r, err := client.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
			if err != nil || len(r.GetItems()) != 20 {
				t.Errorf("%d sandboxes (%v)", len(r.GetItems()), err)
			}
		})
		callers.Wait()
		c := s.config.Containers.List()[round]
		view := s.containerView(c.Status())
		view.ImageRef = fmt.Sprint("changed ", round)
		request, err := view.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetRequest(request); err != nil {
			t.Fatal(err)
		}
		r, err := client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil || r.GetContainers()[round].GetImageRef() != view.ImageRef {
			t.Errorf("%v (%v), want %q", r.GetContainers()[round], err, view.ImageRef)
		}
		now, _ := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		again, _ := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		if now != again || now == kept {
			t.Error("an answer is to be kept as long as it is true")
		}
		kept = now
	}
}

func BenchmarkLists(b *testing.B) {
	s := nodeWith(b, 100)
	conn := connect(b, s)
	client := runtimeapi.NewRuntimeServiceClient(conn)
	for name, call := range map[string]func(context.Context) (int, error){
		"version over gRPC": func(ctx context.Context) (int, error) {
			_, err := client.Version(ctx, &runtimeapi.VersionRequest{})
			return 100, err
		},
		"containers": func(ctx context.Context) (int, error) {
			r, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return len(r.GetContainers()), err
		},
		"containers over gRPC": func(ctx context.Context) (int, error) {
			r, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return len(r.GetContainers()), err
		},
		"containers sent": func(ctx context.Context) (int, error) { // without what a client makes of it
			return 100, conn.Invoke(ctx, runtimeapi.RuntimeService_ListContainers_FullMethodName, &runtimeapi.ListContainersRequest{}, &emptypb.Empty{})
		},
		"sandboxes sent": func(ctx context.Context) (int, error) {
			return 100, conn.Invoke(ctx, runtimeapi.RuntimeService_ListPodSandbox_FullMethodName, &runtimeapi.ListPodSandboxRequest{}, &emptypb.Empty{})
		},
		"sandboxes": func(ctx context.Context) (int, error) {
			r, err := s.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return len(r.GetItems()), err
		},
		"sandboxes over gRPC": func(ctx context.Context) (int, error) {
			r, err := client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return len(r.GetItems()), err
		},
		"status over gRPC": func(ctx context.Context) (int, error) {
			_, err := client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: fmt.Sprintf("%064x", 7)})
			return 100, err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if n, err := call(b.Context()); n != 100 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

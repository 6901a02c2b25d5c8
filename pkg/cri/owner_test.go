package cri

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// ownedNode has three pods: the first is nobody's, the second somebody's, and
// the third nobody's whose author wants it to look like somebody's.
func ownedNode(t *testing.T) (s *Server, ids [3]string) {
	t.Helper()
	n := 0
	s = nodeOf(t, len(ids), func(c *runtime.Params, p *sandbox.Params) {
		ids[n] = c.ID
		switch n {
		case 1:
			c.Owner, p.Owner = "people", "people"
			fallthrough
		case 2:
			for _, labels := range []*map[string]string{&c.Labels, &p.Labels} {
				*labels = maps.Clone(*labels)
				(*labels)[ownerLabel] = "people"
			}
		}
		n++
	})
	return s, ids
}

// Whose a pod is its record says: what has an owner is in no list of a client
// that does not ask for it, and no label hides a pod.
func TestOwnedAreHidden(t *testing.T) {
	s, ids := ownedNode(t)
	label := map[string]string{ownerLabel: "people"}
	for name, tc := range map[string]struct {
		id, pod  string
		selector map[string]string
		want     []int
	}{
		"all":                 {want: []int{0, 2}},
		"by the owner's id":   {id: ids[1], want: []int{1}},
		"by an id's prefix":   {id: ids[1][:63], want: []int{0, 1, 2}},
		"by the pod":          {pod: ids[1], want: []int{1}},
		"by label":            {selector: label, want: []int{1, 2}},
		"by another's label":  {selector: map[string]string{ownerLabel: "nobody"}},
		"by a label of all":   {selector: map[string]string{"io.kubernetes.container.name": "main"}, want: []int{0, 2}},
		"by a label of its":   {selector: map[string]string{"io.kubernetes.pod.name": "pod-1"}},
		"both sorts of label": {selector: map[string]string{ownerLabel: "people", "io.kubernetes.pod.name": "pod-1"}, want: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			want := ""
			for _, i := range tc.want {
				want += ids[i] + " "
			}
			list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
				Id: tc.id, PodSandboxId: tc.pod, LabelSelector: tc.selector,
			}})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, c := range received(t, list).GetContainers() {
				got[c.GetId()] = true
			}
			if len(got) != len(tc.want) {
				t.Errorf("containers %v, want %s", got, want)
			}
			for _, i := range tc.want {
				if !got[ids[i]] {
					t.Errorf("containers %v, want %s", got, want)
				}
			}
			if tc.pod != "" {
				tc.id = tc.pod
			}
			pods, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: tc.id, LabelSelector: tc.selector}})
			if err != nil {
				t.Fatal(err)
			}
			listed := ""
			for _, p := range received(t, pods).GetItems() {
				listed += p.GetId() + " "
			}
			if listed != want {
				t.Errorf("pods %s, want %s", listed, want)
			}
		})
	}
	// By its id everything is there.
	if _, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: ids[1]}); err != nil {
		t.Error(err)
	}
	if _, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: ids[1]}); err != nil {
		t.Error(err)
	}
}

// Nobody is told of what happens to a pod with an owner.
func TestOwnedHaveNoEvents(t *testing.T) {
	s, ids := ownedNode(t)
	for _, id := range ids {
		c, err := s.config.Containers.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		sb, err := s.sandboxes().Get(id)
		if err != nil {
			t.Fatal(err)
		}
		for kind := runtime.ChangeCreated; kind <= runtime.ChangeUnpaused; kind++ {
			s.containerEvent(runtime.Change{Kind: kind, Status: c.Status()})
		}
		for kind := sandbox.ChangeReady; kind <= sandbox.ChangeRemoved; kind++ {
			s.sandboxEvent(sandbox.Change{Kind: kind, Status: sb.Status()})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	told := map[string]int{}
	_ = s.events.log.Subscribe(ctx, func(e *runtimeapi.ContainerEventResponse) error { // it ends with ctx
		told[e.GetPodSandboxStatus().GetId()]++
		return nil
	})
	// Four of a container, and four of a sandbox.
	if told[ids[0]] != 8 || told[ids[1]] != 0 || told[ids[2]] != 8 {
		t.Errorf("told %v", told)
	}
}

// What an owner's containers use kubelet's collector must leave alone.
func TestOwnedImagesArePinned(t *testing.T) {
	s, ids := ownedNode(t)
	owned := s.ownedImages()
	for i, id := range ids {
		img := &image.Image{ID: "sha256:" + id}
		if got := criImage(img, owned).GetPinned(); got != (i == 1) {
			t.Errorf("image of container %d is pinned: %v", i, got)
		}
	}
}

// Others' containers are not to be restarted, nor joined.
func TestOnlyOwnedAreRenewed(t *testing.T) {
	s, ids := ownedNode(t)
	if err := s.RenewContainer(t.Context(), ids[0]); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if err := s.RevivePod(t.Context(), ids[0]); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if err := s.RenewContainer(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	// One whose record does not say what it was made from.
	if err := s.RenewContainer(t.Context(), ids[1]); err == nil {
		t.Error("renewed out of nothing")
	}
}

func TestExtrasAreChecked(t *testing.T) {
	limit := func(name string, soft, hard uint64) []specs.POSIXRlimit {
		return []specs.POSIXRlimit{{Type: name, Soft: soft, Hard: hard}}
	}
	for name, tc := range map[string]struct {
		extras Extras
		wrong  string
	}{
		"nothing":      {},
		"all":          {extras: Extras{ID: NewID(), LogPath: "/var/log/x", Ulimits: limit("RLIMIT_NOFILE", 1, 2)}},
		"short id":     {Extras{ID: "abc"}, "extras.id"},
		"id with path": {Extras{ID: strings.Repeat("../", 21) + "a"}, "extras.id"},
		"log":          {Extras{LogPath: "log"}, "extras.log_path"},
		"log dots":     {Extras{LogPath: "/var/../etc/x"}, "extras.log_path"},
		"limit":        {Extras{Ulimits: limit("NOFILE", 1, 2)}, "extras.ulimits[0]"},
		"limit order":  {Extras{Ulimits: limit("RLIMIT_NOFILE", 3, 2)}, "extras.ulimits[0]"},
		"limit twice":  {Extras{Ulimits: append(limit("RLIMIT_NOFILE", 1, 2), limit("RLIMIT_NOFILE", 1, 2)...)}, "extras.ulimits[1]"},
	} {
		err := tc.extras.validate()
		if (err == nil) != (tc.wrong == "") || err != nil && (!strings.Contains(err.Error(), tc.wrong) || !errdefs.IsInvalidArgument(err)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stop that is under way keeps its sandbox marked.
func TestStops(t *testing.T) {
	var s stops
	if s.has("a") || !s.lift("a") {
		t.Error("a new sandbox is marked")
	}
	first, second := s.begin("a"), s.begin("a")
	first()
	if s.lift("a") || !s.has("a") {
		t.Error("lifted under a stop")
	}
	second()
	if !s.has("a") || s.has("b") {
		t.Error("a stopped sandbox is not marked")
	}
	if !s.lift("a") || s.has("a") {
		t.Error("the mark stays")
	}
	s.begin("a")()
	s.forget("a")
	if s.has("a") {
		t.Error("the mark stays")
	}
}

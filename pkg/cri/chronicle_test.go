package cri

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/sandbox"
)

func methods(all []Done) (names []string) {
	for _, d := range all {
		names = append(names, d.Method)
	}
	return names
}

func TestChronicleKeepsTheLast(t *testing.T) {
	s := &Server{}
	if got := s.Chronicle(func(Done) bool { return true }); len(got) != 0 {
		t.Errorf("at first there is %v", got)
	}
	for i := range chronicleSize + 3 {
		s.chronicle.add(Done{Method: fmt.Sprint(i)})
	}
	all := methods(s.Chronicle(func(Done) bool { return true }))
	if len(all) != chronicleSize || all[0] != "3" || all[len(all)-1] != fmt.Sprint(chronicleSize+2) {
		t.Errorf("%d are kept, from %s to %s", len(all), all[0], all[len(all)-1])
	}
	if !slices.IsSortedFunc(all, func(a, b string) int { return len(a) - len(b) }) {
		t.Error("they are not in their order")
	}
	if got := methods(s.Chronicle(func(d Done) bool { return d.Method == "7" })); !slices.Equal(got, []string{"7"}) {
		t.Errorf("of one there is %v", got)
	}
}

func TestChronicleTogether(t *testing.T) {
	s := &Server{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range chronicleSize / 4 {
				s.chronicle.add(Done{Method: fmt.Sprint(i)})
				s.Chronicle(func(Done) bool { return false })
			}
		})
	}
	all.Wait()
	if got := s.Chronicle(func(Done) bool { return true }); len(got) != chronicleSize {
		t.Errorf("%d are kept", len(got))
	}
}

// TestPullDone: a pull is the story of the pod that it is for, and of none where
// nobody says which.
func TestPullDone(t *testing.T) {
	s := &Server{}
	r := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "no/such"}}
	s.pullDone(r, time.Now(), nil)
	broken := errors.New("no route")
	r.SandboxConfig = &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "u", Attempt: 2}}
	begin := time.Now().Add(-time.Second)
	s.pullDone(r, begin, broken)
	got := s.Chronicle(func(Done) bool { return true })
	if len(got) != 1 {
		t.Fatalf("%d pulls", len(got))
	}
	d := got[0]
	if d.Pod != (sandbox.Key{Name: "pod", Namespace: "ns", UID: "u", Attempt: 2}) || d.Image != "no/such" || !errors.Is(d.Err, broken) || !d.At.Equal(begin) || d.Took < time.Second {
		t.Errorf("%+v", d)
	}
	r.Image.Image = strings.Repeat("x", 1<<20)
	s.pullDone(r, begin, broken)
	if got := s.Chronicle(func(Done) bool { return true }); len(got[1].Image) > maxImage {
		t.Errorf("%d bytes of an image's name are kept", len(got[1].Image))
	}
}

package cri

import (
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/sandbox"
)

// chronicleSize is how many calls are remembered.
const chronicleSize = 2000

// Done is a call that changed a pod or a container, or failed to, as a person who
// asks why wants to know of it.
type Done struct {
	// At is when it began.
	At     time.Time
	Took   time.Duration
	Method string
	// Pod is what the pod was to be called, where the call says it: a pod that could
	// not be made has no id.
	Pod                    sandbox.Key
	Image                  string
	Container              string
	SandboxID, ContainerID string
	// Stages are the stages of the call with their times.
	Stages string
	Err    error
}

// chronicle keeps the last calls. The zero chronicle is empty.
type chronicle struct {
	mu   sync.Mutex
	ring []Done
	next int
}

// maxSubject and maxImage are how much is kept of an id and of an image that a
// request names: who asks for what cannot be there must not fill the memory.
const (
	maxSubject = 64
	maxImage   = 512
)

func (c *chronicle) add(d Done) {
	d.SandboxID, d.ContainerID = fmt.Sprintf("%.*s", maxSubject, d.SandboxID), fmt.Sprintf("%.*s", maxSubject, d.ContainerID)
	d.Image = fmt.Sprintf("%.*s", maxImage, d.Image)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) < chronicleSize {
		c.ring = append(c.ring, d)
		return
	}
	c.ring[c.next] = d
	c.next = (c.next + 1) % len(c.ring)
}

// Chronicle returns the remembered calls that match, the oldest first.
func (s *Server) Chronicle(match func(Done) bool) []Done {
	s.chronicle.mu.Lock()
	defer s.chronicle.mu.Unlock()
	var found []Done
	for i := range s.chronicle.ring {
		d := s.chronicle.ring[(s.chronicle.next+i)%len(s.chronicle.ring)]
		if match(d) {
			found = append(found, d)
		}
	}
	return found
}

// tellChronicle takes note of a call by what its request names.
func (s *Server) tellChronicle(method string, request any, begin time.Time, stages string, err error) {
	d := Done{At: begin, Took: time.Since(begin), Method: method, Stages: stages, Err: err}
	if m, ok := request.(ofSandbox); ok {
		d.SandboxID = m.GetPodSandboxId()
	}
	if m, ok := request.(ofContainer); ok {
		d.ContainerID = m.GetContainerId()
		if c, err := s.config.Containers.Get(d.ContainerID); err == nil {
			d.SandboxID, d.Container = c.Status().Group, c.Status().Name
		}
	}
	d.Pod = s.podOf(d.SandboxID)
	s.chronicle.add(d)
}

// podOf is what a pod is called that is here.
func (s *Server) podOf(sandboxID string) sandbox.Key {
	if sandboxID == "" {
		return sandbox.Key{} // the call named none
	}
	if sb, err := s.config.Sandboxes.Get(sandboxID); err == nil {
		return sb.Status().Params.Key
	}
	return sandbox.Key{}
}

// Note takes note of what was done to a container in another way than by a call.
func (s *Server) Note(d Done) {
	if c, err := s.config.Containers.Get(d.ContainerID); err == nil {
		d.SandboxID, d.Container = c.Status().Group, c.Status().Name
	}
	d.Pod = s.podOf(d.SandboxID)
	s.chronicle.add(d)
}

// pullDone takes note of an image that was pulled for a pod, which may have been
// all that became of one of its containers.
func (s *Server) pullDone(r *runtimeapi.PullImageRequest, begin time.Time, err error) {
	m := r.GetSandboxConfig().GetMetadata()
	if m.GetName() == "" {
		return
	}
	s.chronicle.add(Done{
		At: begin, Took: time.Since(begin), Method: "PullImage", Image: r.GetImage().GetImage(), Err: err,
		Pod: sandbox.Key{Name: m.GetName(), UID: m.GetUid(), Namespace: m.GetNamespace(), Attempt: m.GetAttempt()},
	})
}

// runDone and createDone take note of what outlives its calls.
func (s *Server) runDone(key podKey, op *operation) {
	s.chronicle.add(Done{
		At: op.begin, Took: time.Since(op.begin), Method: "RunPodSandbox",
		Pod: key.Key, SandboxID: op.id, Stages: op.stage(), Err: op.err,
	})
}

func (s *Server) createDone(key containerKey, op *operation) {
	s.chronicle.add(Done{
		At: op.begin, Took: time.Since(op.begin), Method: "CreateContainer",
		Pod: s.podOf(key.sandbox), SandboxID: key.sandbox, Container: key.name, ContainerID: op.id, Stages: op.stage(), Err: op.err,
	})
}

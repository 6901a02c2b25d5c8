package cri

import (
	"sync"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// kubelet asks for both lists each second, and for the statistics of all
// containers, and hardly anything in them that is no number has changed since.
// Most of what an answer costs is the encoding of labels and annotations, so that
// each item is kept encoded as long as it is true.

// listings keeps the items of lists by id.
type listings struct{ m sync.Map }

// listed is an item and what it was made from.
type listed[From any, Item any] struct {
	from  *From
	state int32
	item  Item
}

// listing returns an item that was made from this snapshot and state, or makes
// it. exists says whether it may be kept: nobody drops what has gone already.
func listing[From any, T any, Item interface {
	*T
	proto.Message
}](l *listings, id string, from *From, state int32, exists func() bool, describe func() Item) Item {
	if hit, ok := l.m.Load(id); ok {
		if hit, ok := hit.(*listed[From, Item]); ok && hit.from == from && hit.state == state {
			return hit.item
		}
	}
	item := encodedOnce(describe())
	l.m.Store(id, &listed[From, Item]{from, state, item})
	if !exists() {
		l.m.Delete(id)
	}
	return item
}

// encodedOnce returns a message that is sent as m is. Its fields are where those
// are that this program does not know, which are sent as they were received: it
// says nothing to anybody in this process.
func encodedOnce[T any, M interface {
	*T
	proto.Message
}](m M) M {
	wire, err := proto.Marshal(m)
	if err != nil {
		return m // whoever sends it will say so
	}
	out := M(new(T))
	out.ProtoReflect().SetUnknown(wire)
	return out
}

// listedContainer is a container as a list shows it, for sending only.
func (s *Server) listedContainer(st *runtime.Status) *runtimeapi.Container {
	state := containerState(st.State)
	exists := func() bool { return s.hasContainer(st.ID) }
	return listing(&s.listings, st.ID, st, int32(state), exists, func() *runtimeapi.Container {
		view := s.containerView(st)
		return &runtimeapi.Container{
			Id:           st.ID,
			PodSandboxId: st.Group,
			Metadata:     containerMetadata(st),
			Image:        view.Config.GetImage(),
			ImageRef:     view.ImageRef,
			ImageId:      st.ImageID,
			State:        state,
			CreatedAt:    st.CreatedAt.UnixNano(),
			Labels:       st.Labels,
			Annotations:  st.Annotations,
		}
	})
}

// listedSandbox is a sandbox as a list shows it, for sending only.
func (s *Server) listedSandbox(st *sandbox.Status, state runtimeapi.PodSandboxState) *runtimeapi.PodSandbox {
	exists := func() bool { return s.hasSandbox(st.ID) }
	// The init of a pod has the pod's id, and is in no list.
	return listing(&s.listings, st.ID, st, int32(state), exists, func() *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{
			Id:             st.ID,
			Metadata:       sandboxMetadata(st),
			State:          state,
			CreatedAt:      st.CreatedAt.UnixNano(),
			Labels:         st.Params.Labels,
			Annotations:    st.Params.Annotations,
			RuntimeHandler: st.Params.RuntimeHandler,
		}
	})
}

// attributesOf is appended to the id of a container for what its statistics say
// of it; the id itself is that of its item in the list.
const attributesOf = "/attributes"

// listedAttributes is what statistics say of a container besides numbers, for
// sending only.
func (s *Server) listedAttributes(st *runtime.Status) *runtimeapi.ContainerAttributes {
	exists := func() bool { return s.hasContainer(st.ID) }
	return listing(&s.listings, st.ID+attributesOf, st, 0, exists, func() *runtimeapi.ContainerAttributes {
		return &runtimeapi.ContainerAttributes{
			Id:          st.ID,
			Metadata:    containerMetadata(st),
			Labels:      st.Labels,
			Annotations: st.Annotations,
		}
	})
}

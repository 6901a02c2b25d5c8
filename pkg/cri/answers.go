package cri

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubelet asks for both lists each second, and hardly ever has something changed
// since. The last answer is kept, encoded, and is the next one if nothing has. gRPC
// would encode it each time, into a buffer of a megabyte that it clears before.

// lists are those that are kept.
type lists struct {
	containers answers[*runtimeapi.ListContainersResponse]
	sandboxes  answers[*runtimeapi.ListPodSandboxResponse]
}

// anyState stands for a filter without a state.
const anyState = -1

// answers keeps the last answers of one list, that with all states and those of
// one: kubelet asks for both kinds.
type answers[Response proto.Message] struct {
	last [2 + runtimeapi.ContainerState_CONTAINER_UNKNOWN]atomic.Pointer[answer[Response]]
}

// answer is what was answered.
type answer[Response proto.Message] struct {
	revision uint64
	response Response
	encode   func() ([]byte, error) // once
}

// of returns the answer for a state, or anyState, that was made of this revision,
// or else makes it. The revision was read before.
func (a *answers[Response]) of(state int32, revision uint64, respond func() Response) Response {
	if state < anyState || int(state+1) >= len(a.last) {
		return respond() // there is no such state
	}
	slot := &a.last[state+1]
	if last := slot.Load(); last != nil && last.revision == revision {
		return last.response
	}
	response := respond()
	slot.Store(&answer[Response]{revision, response, sync.OnceValues(func() ([]byte, error) { return proto.Marshal(response) })})
	return response
}

// encoded returns a response as it is sent; ok is false if it is not kept.
func (a *answers[Response]) encoded(response Response) (wire []byte, ok bool, err error) {
	for i := range a.last {
		if last := a.last[i].Load(); last != nil && any(last.response) == any(response) {
			wire, err = last.encode()
			return wire, true, err
		}
	}
	return nil, false, nil
}

// codec is gRPC's own but for the lists that are kept.
type codec struct {
	encoding.CodecV2
	lists *lists
}

func newCodec(l *lists) codec { return codec{encoding.GetCodecV2(grpcproto.Name), l} }

// Marshal encodes a message.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	var wire []byte
	var kept bool
	var err error
	switch v := v.(type) {
	case *runtimeapi.ListContainersResponse:
		wire, kept, err = c.lists.containers.encoded(v)
	case *runtimeapi.ListPodSandboxResponse:
		wire, kept, err = c.lists.sandboxes.encoded(v)
	}
	if err != nil {
		return nil, err
	}
	if kept {
		return mem.BufferSlice{mem.SliceBuffer(wire)}, nil
	}
	return c.CodecV2.Marshal(v)
}

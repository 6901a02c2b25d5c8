package build

import (
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// maxVertices bounds the graph that one Dockerfile may become.
const maxVertices = 20000

// vertex is one operation. Each is run once at most in a build.
type vertex struct {
	digest digest.Digest
	op     *pb.Op
	meta   *pb.OpMetadata
	inputs []*vertex

	once   sync.Once
	result result
	err    error
}

// graph has all operations of a build by their digest, so that what several
// definitions have in common is the same.
type graph struct {
	vertices map[digest.Digest]*vertex
}

// add enters a definition and returns the operation it ends with, nil for one
// without any: scratch.
func (g *graph) add(def *pb.Definition) (*vertex, error) {
	if len(def.GetDef()) == 0 {
		return nil, nil //nolint:nilnil // scratch
	}
	if len(def.GetDef()) > maxVertices {
		return nil, fmt.Errorf("the build has %d steps, at most %d are allowed: %w", len(def.GetDef()), maxVertices, errdefs.ErrInvalidArgument)
	}
	if g.vertices == nil {
		g.vertices = map[digest.Digest]*vertex{}
	}
	ops := map[digest.Digest]*pb.Op{}
	var last digest.Digest
	for _, raw := range def.GetDef() {
		op := &pb.Op{}
		if err := proto.Unmarshal(raw, op); err != nil {
			return nil, fmt.Errorf("parse operation: %w", err)
		}
		last = digest.FromBytes(raw)
		ops[last] = op
	}
	// The last one has no operation, but names what the result is.
	end := ops[last]
	if len(end.GetInputs()) == 0 {
		return nil, nil //nolint:nilnil // scratch
	}
	if end.GetInputs()[0].GetIndex() != 0 {
		return nil, fmt.Errorf("output %d of an operation as the result: %w", end.GetInputs()[0].GetIndex(), errdefs.ErrNotImplemented)
	}
	return g.vertex(digest.Digest(end.GetInputs()[0].GetDigest()), ops, def, map[digest.Digest]bool{})
}

// vertex enters an operation and all that it needs.
func (g *graph) vertex(d digest.Digest, ops map[digest.Digest]*pb.Op, def *pb.Definition, under map[digest.Digest]bool) (*vertex, error) {
	if v := g.vertices[d]; v != nil {
		return v, nil
	}
	op := ops[d]
	if op == nil || under[d] {
		return nil, fmt.Errorf("operation %s is missing or needs itself: %w", d, errdefs.ErrInvalidArgument)
	}
	under[d] = true
	v := &vertex{digest: d, op: op, meta: def.GetMetadata()[d.String()]}
	for _, in := range op.GetInputs() {
		if in.GetIndex() != 0 {
			return nil, fmt.Errorf("output %d of an operation as an input: %w", in.GetIndex(), errdefs.ErrNotImplemented)
		}
		i, err := g.vertex(digest.Digest(in.GetDigest()), ops, def, under)
		if err != nil {
			return nil, err
		}
		v.inputs = append(v.inputs, i)
	}
	delete(under, d)
	g.vertices[d] = v
	return v, nil
}

// step is the name of an operation for people and the id of its step. Empty is
// one that is not shown: it is a part of another.
func (v *vertex) step() (id, name string) {
	if g := v.meta.GetProgressGroup(); g != nil {
		if g.GetWeak() {
			return "", ""
		}
		return g.GetId(), g.GetName()
	}
	name = v.meta.GetDescription()["llb.customname"]
	if name == "" {
		switch o := v.op.GetOp().(type) {
		case *pb.Op_Source:
			name = o.Source.GetIdentifier()
		case *pb.Op_Exec:
			name = strings.Join(o.Exec.GetMeta().GetArgs(), " ")
		case *pb.Op_Merge:
			name = "merge"
		case *pb.Op_Diff:
			name = "diff"
		default:
			name = "files"
		}
	}
	return v.digest.String(), name
}

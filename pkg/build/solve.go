package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/guard"
)

// solveDefinition enters a definition into the graph and runs it.
func (r *run) solveDefinition(ctx context.Context, def *pb.Definition) (result, error) {
	v, err := r.enter(def)
	if err != nil {
		return result{}, err
	}
	return r.solve(ctx, v)
}

func (r *run) enter(def *pb.Definition) (*vertex, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.graph.add(def)
}

// solve runs an operation and all it needs, those that do not need one another
// at the same time, and each once.
func (r *run) solve(ctx context.Context, v *vertex) (result, error) {
	if v == nil {
		return result{}, nil // scratch
	}
	v.once.Do(func() {
		var inputs []result
		if inputs, v.err = r.solveInputs(ctx, v); v.err == nil {
			v.result, v.err = r.runVertex(ctx, v, inputs)
		}
	})
	return v.result, v.err
}

func (r *run) solveInputs(ctx context.Context, v *vertex) ([]result, error) {
	inputs := make([]result, len(v.inputs))
	var g errgroup.Group // ctx ends when the first step of the build fails
	for i, in := range v.inputs {
		g.Go(func() (err error) {
			inputs[i], err = r.solve(ctx, in)
			return err
		})
	}
	return inputs, g.Wait()
}

// stepError says in which step a build failed.
type stepError struct {
	name string
	err  error
}

func (e *stepError) Error() string { return e.name + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// runVertex runs an operation whose inputs are there.
func (r *run) runVertex(ctx context.Context, v *vertex, inputs []result) (res result, err error) {
	if err := ctx.Err(); err != nil {
		return result{}, context.Cause(ctx)
	}
	id, name := v.step()
	end := r.progress.begin(id, name)
	cached := false
	defer func() {
		if err != nil && name != "" {
			err = &stepError{name, err}
		}
		if err != nil {
			r.fail(err)
		}
		if step, ok := errors.AsType[*stepError](err); ok {
			end(cached, step.err)
			return
		}
		end(cached, err)
	}()
	err = guard.Call(klog.FromContext(ctx), "the step", func() (err error) {
		res, cached, err = r.find(ctx, id, v, inputs)
		return err
	})
	return res, err
}

// find is the result of an operation, cached or made now.
func (r *run) find(ctx context.Context, id string, v *vertex, inputs []result) (res result, cached bool, err error) {
	if source := v.op.GetSource(); source != nil {
		res, err = r.source(ctx, id, v, source)
		return res, false, err
	}
	keys, err := r.keys(ctx, v, inputs)
	if err != nil {
		return result{}, false, err
	}
	if !v.meta.GetIgnoreCache() {
		if res, cached, err = r.lookup(ctx, keys); cached || err != nil {
			return res, cached, err
		}
	}
	if res, err = r.execute(ctx, id, v, inputs); err != nil {
		return result{}, false, err
	}
	_, name := v.step()
	return res, false, r.remember(ctx, keys, res, name)
}

// execute runs an operation that is no source.
func (r *run) execute(ctx context.Context, id string, v *vertex, inputs []result) (result, error) {
	switch op := v.op.GetOp().(type) {
	case *pb.Op_Exec:
		return r.exec(ctx, id, op.Exec, inputs)
	case *pb.Op_File:
		return r.file(ctx, op.File, inputs)
	case *pb.Op_Merge:
		return r.merge(ctx, op.Merge, inputs)
	case *pb.Op_Diff:
		return r.diff(ctx, op.Diff, inputs)
	}
	return result{}, fmt.Errorf("operation %T: %w", v.op.GetOp(), errdefs.ErrNotImplemented)
}

// input is one of the inputs of an operation; below 0 is scratch.
func input(inputs []result, i int64) (result, error) {
	if i < 0 {
		return result{}, nil
	}
	if i >= int64(len(inputs)) {
		return result{}, fmt.Errorf("input %d of %d: %w", i, len(inputs), errdefs.ErrInvalidArgument)
	}
	return inputs[i], nil
}

// merge stacks the layers of all inputs. Whiteouts hide what is below them in
// the new stack.
func (r *run) merge(ctx context.Context, op *pb.MergeOp, inputs []result) (result, error) {
	var out result
	for _, in := range op.GetInputs() {
		one, err := input(inputs, in.GetInput())
		if err != nil {
			return result{}, err
		}
		if one, err = r.layered(ctx, one); err != nil {
			return result{}, err
		}
		out.layers = append(out.layers, one.layers...)
	}
	return out, nil
}

// diff is what the upper input has on top of the lower one, whose layers must be
// the first of the upper one's.
func (r *run) diff(ctx context.Context, op *pb.DiffOp, inputs []result) (result, error) {
	lower, err := input(inputs, op.GetLower().GetInput())
	if err != nil {
		return result{}, err
	}
	upper, err := input(inputs, op.GetUpper().GetInput())
	if err != nil {
		return result{}, err
	}
	if upper, err = r.layered(ctx, upper); err != nil {
		return result{}, err
	}
	if lower, err = r.layered(ctx, lower); err != nil {
		return result{}, err
	}
	if len(lower.layers) > len(upper.layers) {
		return result{}, errUnrelated
	}
	for i, l := range lower.layers {
		if upper.layers[i].DiffID != l.DiffID {
			return result{}, errUnrelated
		}
	}
	return result{layers: upper.layers[len(lower.layers):]}, nil
}

var errUnrelated = fmt.Errorf("the difference of two trees, one of which is not made from the other: %w", errdefs.ErrNotImplemented)

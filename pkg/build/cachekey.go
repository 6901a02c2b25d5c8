package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// keys are what a result is found by: content looks at the files that an
// operation reads of its inputs, as BuildKit does; exact, where there is one, at
// which inputs they are, and is quicker to know.
type keys struct {
	exact   string
	content func() (string, error)
}

// keyVersion changes when results of earlier versions are not what this one
// would make.
const keyVersion = "1"

// keys of an operation on inputs.
func (r *run) keys(ctx context.Context, v *vertex, inputs []result) (keys, error) {
	h, err := r.definitionHash(v)
	if err != nil {
		return keys{}, err
	}
	selected := selections(v.op, len(inputs))
	known := true
	for i := range inputs {
		known = known && (inputs[i].identity() != "")
	}
	k := keys{content: sync.OnceValues(func() (string, error) {
		h, err := r.definitionHash(v)
		if err != nil {
			return "", err
		}
		for i, in := range inputs {
			if err := r.inputHash(ctx, h, in, selected[i]); err != nil {
				return "", err
			}
		}
		return cacheKey(h), nil
	})}
	if !known {
		return k, nil
	}
	mix(h, "exact")
	for i := range inputs {
		mix(h, inputs[i].identity())
	}
	k.exact = cacheKey(h)
	return k, nil
}

// definitionHash is that of an operation without what its inputs are, nor what
// must not matter.
func (r *run) definitionHash(v *vertex) (hash.Hash, error) {
	op := v.op.CloneVT()
	op.Inputs = nil
	op.Constraints = nil
	if e := op.GetExec(); e != nil {
		e.Meta.ProxyEnv = nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	mix(h, keyVersion, len(b))
	h.Write(b)
	if e := r.epoch(); e != nil {
		mix(h, "epoch", e.Unix())
	}
	return h, nil
}

// inputHash adds an input: what is selected of it, or all.
func (r *run) inputHash(ctx context.Context, h hash.Hash, in result, selected []selection) error {
	if selected == nil {
		if id := in.identity(); id != "" {
			mix(h, id)
			return nil
		}
		selected = []selection{{path: "/"}}
	}
	dir, err := r.view(ctx, in)
	if err != nil {
		return err
	}
	for _, s := range selected {
		sum, err := checksum(ctx, dir, s)
		if err != nil {
			return err
		}
		mix(h, "content", sum)
	}
	return nil
}

// selections are, for each input, the parts of it that an operation reads; nil
// is an input that counts as a whole.
func selections(op *pb.Op, n int) [][]selection {
	all := make([][]selection, n)
	whole := make([]bool, n)
	add := func(i int64, s selection) {
		if i >= 0 && i < int64(n) {
			all[i] = append(all[i], s)
		}
	}
	switch o := op.GetOp().(type) {
	case *pb.Op_File:
		for _, a := range o.File.GetActions() {
			if i := a.GetInput(); i >= 0 && i < int64(n) {
				whole[i] = true
			}
			if c := a.GetCopy(); c != nil {
				add(a.GetSecondaryInput(), selection{
					path: c.GetSrc(), wildcard: c.GetAllowWildcard(), follow: c.GetFollowSymlink(),
					contents: c.GetDirCopyContents(), include: c.GetIncludePatterns(), exclude: c.GetExcludePatterns(),
				})
			}
		}
	case *pb.Op_Exec:
		for _, m := range o.Exec.GetMounts() {
			i := m.GetInput()
			if m.GetDest() != pb.RootMount && m.GetMountType() == pb.MountType_BIND && m.GetContentCache() != pb.MountContentCache_OFF {
				add(i, selection{path: m.GetSelector(), follow: true})
			} else if i >= 0 && i < int64(n) {
				whole[i] = true
			}
		}
	}
	for i := range all {
		if whole[i] {
			all[i] = nil
		}
	}
	return all
}

// lookup finds a result by its keys. One found by content is from then on found
// by the exact key, too.
func (r *run) lookup(ctx context.Context, k keys) (result, bool, error) {
	if k.exact != "" {
		if res, ok := r.cache.get(k.exact); ok && r.hold(res.stack()) == nil {
			return res, true, nil
		}
	}
	key, err := k.content()
	if err != nil {
		return result{}, false, err
	}
	res, ok := r.cache.get(key)
	if !ok {
		return result{}, false, nil
	}
	if err := r.hold(res.stack()); err != nil {
		return result{}, false, nil //nolint:nilerr // it went a moment ago
	}
	if k.exact != "" {
		err = r.cache.put(ctx, k.exact, res, "")
	}
	return res, true, err
}

// remember keeps a result for later builds.
func (r *run) remember(ctx context.Context, k keys, res result, name string) error {
	key, err := k.content()
	if err != nil {
		return err
	}
	if err := r.cache.put(ctx, key, res, name); err != nil {
		return err
	}
	if k.exact == "" {
		return nil
	}
	return r.cache.put(ctx, k.exact, res, name)
}

// cacheKey is a key short enough not to be taken for the id of a container.
func cacheKey(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:20]) }

package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Progress is how far one layer of a pull, push or load is.
type Progress struct {
	// Layer is the digest of the blob, or the diff ID; empty for the whole.
	Layer digest.Digest
	// Status is in docker's words: Downloading, Pull complete, Pushed …
	Status string
	// Current and Total are bytes; Total is 0 where nobody knows.
	Current, Total int64
}

// PushRequest is one image to push.
type PushRequest struct {
	// Ref is the name, which an image must have.
	Ref string
	// Auth is the credentials that came with the request, nil for none.
	Auth *Auth
	// OnProgress, if set, is told from one goroutine at a time. It must not wait
	// for long.
	OnProgress func(Progress)
}

// Push sends an image to the registry of one of its names and returns the digest
// of its manifest there.
func (s *Store) Push(context.Context, PushRequest) (digest.Digest, error) {
	return "", fmt.Errorf("push: %w", errdefs.ErrNotImplemented)
}

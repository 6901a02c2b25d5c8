package sandbox

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// UpdateRequest replaces Params.Request by what change makes of it. Where that
// cannot be saved, nothing has changed.
func (s *Sandbox) UpdateRequest(ctx context.Context, change func(request []byte) ([]byte, error)) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	next := s.Status()
	if s.removed || next.Broken != "" {
		return fmt.Errorf("sandbox %s: %w", next.ID, errdefs.ErrNotFound)
	}
	request, err := change(next.Params.Request)
	if err != nil {
		return err
	}
	next.Params.Request = request
	if err := s.saveAs(next); err != nil {
		return fmt.Errorf("update sandbox %s: %w", next.ID, err)
	}
	s.status.Store(&next)
	return nil
}

// saveAs writes a status as the record, in which a sandbox that is not ready has
// no addresses, see saveStopped.
func (s *Sandbox) saveAs(next Status) error {
	if next.State == NotReady {
		next.IPs, next.NetworkResult = nil, nil
	}
	return s.manager.save(next)
}

package node

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/node/imageconfig"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Search finds repositories in a registry.
func (s *images) Search(ctx context.Context, r *nodev1.SearchRequest) (*nodev1.SearchResponse, error) {
	found, err := s.config.Images.Search(ctx, r.GetTerm(), int(r.GetLimit()), imageAuth(r.GetAuth()))
	if err != nil {
		return nil, err
	}
	response := &nodev1.SearchResponse{}
	for _, f := range found {
		response.Results = append(response.Results, &nodev1.SearchResponse_Result{Name: f.Name, Description: f.Description, Stars: f.Stars, Official: f.Official})
	}
	return response, nil
}

// Login asks a registry whether it takes credentials.
func (s *images) Login(ctx context.Context, r *nodev1.LoginRequest) (*nodev1.LoginResponse, error) {
	err := s.config.Images.Login(ctx, r.GetRegistry(), imageAuth(r.GetAuth()))
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		return nil, &problem{errdefs.ErrUnauthenticated, fmt.Sprintf("registry %s does not take this user name and password", r.GetRegistry())}
	}
	if err != nil {
		return nil, err
	}
	return &nodev1.LoginResponse{}, nil
}

// register makes an image of a configuration whose layers are in the store.
func (s *Server) register(ctx context.Context, c *imageconfig.Config, names []string) (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode image config: %w", err)
	}
	img, err := s.config.Images.Register(ctx, b, names...)
	if err != nil {
		return "", err
	}
	return img.ID, nil
}

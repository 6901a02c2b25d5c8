package main

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/cri/streaming"
)

// listenStreams opens the listener of exec, attach and port-forward.
func (n *node) listenStreams(ctx context.Context, cfg config.Streaming) (*streaming.Server, error) {
	streams, err := streaming.Listen(ctx, streaming.Config{
		Address:     cfg.Address,
		Port:        cfg.Port,
		IdleTimeout: cfg.IdleTimeout.Duration,
		TLS:         streaming.TLS{CertFile: cfg.TLSCertFile, KeyFile: cfg.TLSKeyFile, ClientCAFile: cfg.TLSClientCAFile},
	})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, streams.Stop)
	return streams, nil
}

// serveStreams serves until the node is closed. An error of the listener ends
// streaming alone: the node's other work does not need it.
func (n *node) serveStreams(ctx context.Context, streams *streaming.Server) {
	served := make(chan error, 1)
	go func() {
		err := streams.Serve(ctx, n.server.StreamRuntime())
		if err != nil {
			klog.FromContext(ctx).Error(err, "Exec, attach and port-forward do not work until a restart")
		}
		served <- err
	}()
	n.closers = append(n.closers, func() error { return errors.Join(streams.Stop(), <-served) })
}

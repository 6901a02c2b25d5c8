package main

import (
	"context"
	"fmt"
	"time"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/cri/tracing"
)

// flushTimeout bounds the sending of the last spans when the daemon ends.
const flushTimeout = 3 * time.Second

// openTracing makes what sends spans, which is closed after all that make some.
func (n *node) openTracing(ctx context.Context, cfg config.Tracing, version string) (err error) {
	n.tracing, err = tracing.Open(ctx, tracing.Config{
		Endpoint: cfg.Endpoint, Insecure: cfg.Insecure, CAFile: cfg.TLSCAFile,
		SamplingRatePerMillion: cfg.SamplingRatePerMillion, Version: version,
	})
	if err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	n.closers = append(n.closers, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		return n.tracing.Shutdown(ctx)
	})
	return nil
}

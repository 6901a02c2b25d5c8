package main

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/cri/nri"
)

// nriConfig is nil where plugins are not wanted.
func nriConfig(ctx context.Context, c config.NRI) *nri.Config {
	if !c.Enable {
		return nil
	}
	nri.SetLog(klog.FromContext(ctx))
	socket := c.Socket
	if c.DisableConnections {
		socket = ""
	}
	v := c.Validator
	return &nri.Config{
		Socket: socket, PluginDir: c.PluginDir, ConfigDir: c.ConfigDir,
		RegistrationTimeout: c.RegistrationTimeout.Duration, RequestTimeout: c.RequestTimeout.Duration,
		Validator: nri.Validator{
			Enable:                                v.Enable,
			RejectOCIHookAdjustment:               v.RejectHooks,
			RejectRuntimeDefaultSeccompAdjustment: v.RejectSeccompDefault,
			RejectUnconfinedSeccompAdjustment:     v.RejectSeccompUnconfined,
			RejectCustomSeccompAdjustment:         v.RejectSeccompCustom,
			RejectNamespaceAdjustment:             v.RejectNamespaces,
			RejectSysctlAdjustment:                v.RejectSysctls,
			RequiredPlugins:                       v.RequiredPlugins,
			TolerateMissingAnnotation:             v.TolerateMissingAnnotation,
		},
	}
}

// startNRI lets plugins work as long as the node does.
func (n *node) startNRI(ctx context.Context) {
	n.server.StartNRI(ctx)
	n.closers = append(n.closers, func() error {
		n.server.CloseNRI()
		return nil
	})
}

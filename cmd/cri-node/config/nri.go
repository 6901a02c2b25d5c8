package config

import (
	"slices"
	"time"
)

// NRI is the section about plugins of the Node Resource Interface.
type NRI struct {
	Enable              bool         `toml:"enable"`
	Socket              string       `toml:"socket"` // absolute path of a unix socket
	PluginDir           string       `toml:"plugin_dir"`
	ConfigDir           string       `toml:"config_dir"`
	RegistrationTimeout Duration     `toml:"registration_timeout"`
	RequestTimeout      Duration     `toml:"request_timeout"`
	DisableConnections  bool         `toml:"disable_connections"`
	Validator           NRIValidator `toml:"validator"`
}

// NRIValidator says which changes by plugins are refused.
type NRIValidator struct {
	Enable                    bool     `toml:"enable"`
	RejectHooks               bool     `toml:"reject_hooks"`
	RejectSeccompDefault      bool     `toml:"reject_runtime_default_seccomp"`
	RejectSeccompUnconfined   bool     `toml:"reject_unconfined_seccomp"`
	RejectSeccompCustom       bool     `toml:"reject_custom_seccomp"`
	RejectNamespaces          bool     `toml:"reject_namespaces"`
	RejectSysctls             bool     `toml:"reject_sysctls"`
	RequiredPlugins           []string `toml:"required_plugins"`
	TolerateMissingAnnotation string   `toml:"tolerate_missing_annotation"`
}

// maxNRITimeout keeps a plugin from holding up the pods of a node for long.
const maxNRITimeout = time.Minute

func (v *validator) nri(n NRI) {
	if !n.Enable {
		return
	}
	if !n.DisableConnections {
		v.check("nri.socket", socketPath(n.Socket))
	}
	v.check("nri.plugin_dir", absolute(n.PluginDir))
	v.check("nri.config_dir", absolute(n.ConfigDir))
	for key, d := range map[string]Duration{
		"nri.registration_timeout": n.RegistrationTimeout, "nri.request_timeout": n.RequestTimeout,
	} {
		v.require(d.Duration >= 100*time.Millisecond && d.Duration <= maxNRITimeout, key, "is %s, want 100ms to %s", d, maxNRITimeout)
	}
	v.require(!slices.Contains(n.Validator.RequiredPlugins, ""), "nri.validator.required_plugins", "has an empty name")
}

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// errNotBuiltin means that a call needs the real plugin: its configuration
// asks for something that is not implemented here.
var errNotBuiltin = errors.New("not implemented in process")

// call is one invocation of a plugin that runs in this process.
type call struct {
	op      *operation
	command string
	id      string
	netns   string
	ifname  string
	stdin   []byte
}

func isBuiltin(plugin string) bool {
	switch plugin {
	case "bridge", "loopback", "portmap":
		return true
	}
	return false
}

// runBuiltin does what the plugin called name does, or returns errNotBuiltin
// before it has changed anything.
func (o *operation) runBuiltin(ctx context.Context, name string, stdin []byte, env map[string]string) ([]byte, error) {
	c := &call{
		op:      o,
		command: env["CNI_COMMAND"],
		id:      env["CNI_CONTAINERID"],
		netns:   env["CNI_NETNS"],
		ifname:  env["CNI_IFNAME"],
		stdin:   stdin,
	}
	switch name {
	case "bridge":
		return c.bridge(ctx)
	case "loopback":
		return c.loopback()
	case "portmap":
		return c.portmap()
	}
	return nil, errNotBuiltin
}

// portmap has nothing to do for a pod without port mappings. The real plugin
// still looks at iptables then, under the lock that all users of iptables share
// (containernetworking/plugins#510).
func (c *call) portmap() ([]byte, error) {
	var conf struct {
		RuntimeConfig struct {
			PortMappings []PortMapping `json:"portMappings"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(c.stdin, &conf); err != nil {
		return nil, fmt.Errorf("parse portmap configuration: %w", err)
	}
	if len(conf.RuntimeConfig.PortMappings) > 0 {
		return nil, errNotBuiltin
	}
	switch c.command {
	case "ADD":
		return c.passOn()
	case "DEL", "CHECK", "STATUS", "GC":
		return nil, nil
	}
	return nil, errNotBuiltin
}

// loopback brings lo up, which the pod's owner has done already as a rule.
func (c *call) loopback() ([]byte, error) {
	switch c.command {
	case "ADD":
		var conf struct {
			PrevResult json.RawMessage `json:"prevResult"`
		}
		if err := json.Unmarshal(c.stdin, &conf); err != nil {
			return nil, fmt.Errorf("parse loopback configuration: %w", err)
		}
		if conf.PrevResult == nil {
			return nil, errNotBuiltin // a network of its own, with a result of its own
		}
		if err := LoopbackUp(c.netns); err != nil {
			return nil, err
		}
		return c.passOn()
	case "DEL", "STATUS", "GC":
		return nil, nil // lo goes with its namespace
	}
	return nil, errNotBuiltin
}

// passOn returns the result of the plugin before as this one's own.
func (c *call) passOn() ([]byte, error) {
	conf, err := c.withPrevResult()
	if err != nil {
		return nil, err
	}
	if conf.PrevResult == nil {
		return nil, errors.New("must be called as chained plugin")
	}
	return encodeResult(conf.PrevResult, conf.CNIVersion)
}

func (c *call) withPrevResult() (*types.PluginConf, error) {
	conf := &types.PluginConf{}
	if err := json.Unmarshal(c.stdin, conf); err != nil {
		return nil, fmt.Errorf("parse plugin configuration: %w", err)
	}
	if conf.RawPrevResult == nil {
		return conf, nil
	}
	if err := version.ParsePrevResult(conf); err != nil {
		return nil, fmt.Errorf("parse prevResult: %w", err)
	}
	return conf, nil
}

// prevResult is what ADD returned, as far as it is known: nil where ADD failed
// or where the configuration's version is too old for it.
func (c *call) prevResult() *current.Result {
	conf, err := c.withPrevResult()
	if err != nil || conf.PrevResult == nil {
		return nil
	}
	r, err := current.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return nil
	}
	return r
}

func encodeResult(r types.Result, cniVersion string) ([]byte, error) {
	r, err := r.GetAsVersion(cniVersion)
	if err != nil {
		return nil, fmt.Errorf("convert result to version %s: %w", cniVersion, err)
	}
	return json.Marshal(r)
}

// zeroJSON reports whether a value is as good as absent.
func zeroJSON(raw json.RawMessage) bool {
	switch string(raw) {
	case "", "null", "false", "0", `""`, "{}", "[]":
		return true
	}
	return false
}

// onlyKeys reports whether obj asks for nothing but what known names.
func onlyKeys(obj map[string]json.RawMessage, known ...string) bool {
	for key, value := range obj {
		ok := zeroJSON(value)
		for _, k := range known {
			ok = ok || k == key
		}
		if !ok {
			return false
		}
	}
	return true
}

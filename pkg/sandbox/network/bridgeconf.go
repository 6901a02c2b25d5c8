package network

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// bridgeConf is the part of the bridge plugin's configuration that is
// implemented here. Its names and defaults are the plugin's.
type bridgeConf struct {
	types.PluginConf
	Bridge           string  `json:"bridge"`
	IsGateway        bool    `json:"isGateway"`
	IsDefaultGateway bool    `json:"isDefaultGateway"`
	ForceAddress     bool    `json:"forceAddress"`
	IPMasq           bool    `json:"ipMasq"`
	IPMasqBackend    *string `json:"ipMasqBackend"`
	MTU              int     `json:"mtu"`
	HairpinMode      bool    `json:"hairpinMode"`
}

// parseBridgeConf returns errNotBuiltin for a configuration that wants more.
func parseBridgeConf(doc []byte) (*bridgeConf, error) {
	if !bridgeEligible(doc) {
		return nil, errNotBuiltin
	}
	c := &bridgeConf{Bridge: "cni0"}
	if err := json.Unmarshal(doc, c); err != nil {
		return nil, fmt.Errorf("parse bridge configuration: %w", err)
	}
	if c.IsDefaultGateway {
		c.IsGateway = true
	}
	return c, nil
}

// bridgeEligible knows the keys of the bridge plugin and of host-local. One it
// does not know may be anything, so the real plugin has to look at it.
func bridgeEligible(doc []byte) bool {
	var obj, ipam map[string]json.RawMessage
	if json.Unmarshal(doc, &obj) != nil || json.Unmarshal(obj["ipam"], &ipam) != nil {
		return false
	}
	var ipamType string
	if json.Unmarshal(ipam["type"], &ipamType) != nil || ipamType != "host-local" {
		return false
	}
	var caps, rc map[string]json.RawMessage
	if raw := obj["capabilities"]; !zeroJSON(raw) && json.Unmarshal(raw, &caps) != nil {
		return false
	}
	if raw := obj["runtimeConfig"]; !zeroJSON(raw) && json.Unmarshal(raw, &rc) != nil {
		return false
	}
	return onlyKeys(obj, "cniVersion", "name", "type", "capabilities", "dns", "ipam", "prevResult", "runtimeConfig",
		"bridge", "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend", "mtu", "hairpinMode",
		"cni.dev/attachments", "cni.dev/valid-attachments") &&
		onlyKeys(ipam, "type", "subnet", "rangeStart", "rangeEnd", "gateway", "ranges", "routes", "dataDir") &&
		onlyKeys(rc)
}

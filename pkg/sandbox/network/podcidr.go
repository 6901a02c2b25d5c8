package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

const (
	// podCIDRFile, in the cache directory, keeps the node's pod CIDRs for the
	// next daemon, which has pods to make before anybody tells it.
	podCIDRFile = "podcidrs.json"
	// renderedFile is what the template becomes in the configuration directory.
	renderedFile = "10-cri-node.conflist"
)

// templateData is what a template can use; the names are those of containerd,
// whose templates work here.
type templateData struct {
	// PodCIDR is the first of PodCIDRRanges.
	PodCIDR string
	// PodCIDRRanges are the CIDRs of pods on this node.
	PodCIDRRanges []string
	// Routes are the default routes of their families.
	Routes []string
}

// SetPodCIDRs makes the network give pods addresses out of these: through the
// template where there is one, else in the default network, if its subnets were
// not chosen by the operator. A configuration that somebody else has put in
// place stays in force. Pods that exist keep their addresses.
func (n *Network) SetPodCIDRs(cidrs []netip.Prefix) error {
	if err := validatePodCIDRs(cidrs); err != nil {
		return err
	}
	doc, err := json.Marshal(cidrs)
	if err != nil {
		return fmt.Errorf("encode pod CIDRs: %w", err)
	}
	n.settingCIDRs.Lock()
	defer n.settingCIDRs.Unlock()
	rendered, err := n.render(cidrs)
	if err != nil {
		return err
	}
	if err := linux.WriteFileAtomic(n.podCIDRPath(), doc, 0o600, linux.SurvivePower); err != nil {
		return fmt.Errorf("keep pod CIDRs: %w", err)
	}
	n.podCIDRs.Store(&cidrs)
	if err := n.place(rendered); err != nil {
		return err
	}
	n.reload()
	return nil
}

func (n *Network) podCIDRPath() string { return filepath.Join(n.cfg.CacheDir, podCIDRFile) }

// restorePodCIDRs puts in force what an earlier daemon was told. What cannot be
// read is as if nobody had said anything: kubelet will say it again.
func (n *Network) restorePodCIDRs() {
	doc, err := os.ReadFile(n.podCIDRPath())
	if err != nil {
		return
	}
	var cidrs []netip.Prefix
	if json.Unmarshal(doc, &cidrs) != nil || validatePodCIDRs(cidrs) != nil {
		return
	}
	n.podCIDRs.Store(&cidrs)
	if rendered, err := n.render(cidrs); err == nil {
		_ = n.place(rendered) // Status says that there is no configuration
	}
}

func validatePodCIDRs(cidrs []netip.Prefix) error {
	if len(cidrs) == 0 {
		return fmt.Errorf("pod_cidr: is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := (DefaultNetwork{Bridge: "any", Subnets: cidrs}).validate(); err != nil {
		return fmt.Errorf("pod_cidr: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, c := range cidrs {
		if c != c.Masked() {
			return fmt.Errorf("pod_cidr: %s has host bits, want %s: %w", c, c.Masked(), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// render fills in the template, if there is one, and makes sure that the
// result can be used.
func (n *Network) render(cidrs []netip.Prefix) ([]byte, error) {
	if n.cfg.ConfTemplate == "" {
		return nil, nil
	}
	text, err := os.ReadFile(n.cfg.ConfTemplate)
	if err != nil {
		return nil, fmt.Errorf("read template of the network configuration: %w", err)
	}
	t, err := template.New(filepath.Base(n.cfg.ConfTemplate)).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("template of the network configuration: %w", err)
	}
	data := templateData{PodCIDR: cidrs[0].String()}
	for _, c := range cidrs {
		data.PodCIDRRanges = append(data.PodCIDRRanges, c.String())
		route := "0.0.0.0/0"
		if c.Addr().Is6() {
			route = "::/0"
		}
		data.Routes = append(data.Routes, route)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("template of the network configuration: %w", err)
	}
	if _, err := parseConf(out.Bytes(), ""); err != nil {
		return nil, fmt.Errorf("template %s does not make a CNI configuration: %w", n.cfg.ConfTemplate, err)
	}
	return out.Bytes(), nil
}

// place puts a rendered configuration where it counts, unless it is there
// already, or another one is in force.
func (n *Network) place(rendered []byte) error {
	if rendered == nil {
		return nil
	}
	if c := n.readConf().conf; c != nil && !c.embedded() && c.file != renderedFile {
		return nil
	}
	path := filepath.Join(n.cfg.ConfDir, renderedFile)
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, rendered) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read network configuration: %w", err)
	}
	if err := os.MkdirAll(n.cfg.ConfDir, 0o755); err != nil {
		return fmt.Errorf("create CNI configuration directory: %w", err)
	}
	if err := linux.WriteFileAtomic(path, rendered, 0o644, linux.SurvivePower); err != nil {
		return fmt.Errorf("write network configuration: %w", err)
	}
	return nil
}

// defaultNetwork is the embedded network with the CIDRs that are in force. The
// bridge may have the address of earlier ones, which the new one replaces.
func (n *Network) defaultNetwork() DefaultNetwork {
	d := n.cfg.DefaultNetwork
	if cidrs := n.podCIDRs.Load(); cidrs != nil && !d.Fixed && n.cfg.ConfTemplate == "" {
		d.Subnets, d.replace = *cidrs, true
	}
	return d
}

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// conf is one usable network configuration; immutable.
type conf struct {
	// file is the base name of its file, "" for the embedded network.
	file string
	list *libcni.NetworkConfigList
}

// embedded reports whether this is the default network.
func (c *conf) embedded() bool { return c.file == "" }

// where names the configuration in messages.
func (c *conf) where() string {
	if c.embedded() {
		return "the default network"
	}
	return c.file
}

// confState is what the last look at the configuration directory found;
// immutable.
type confState struct {
	conf     *conf    // nil where there is no network to use
	reason   error    // why conf is nil
	problems []string // files passed over, and why
}

// reload looks at the configuration directory and publishes what it finds.
func (n *Network) reload() {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	old := n.state.Load()
	s := n.readConf()
	n.state.Store(s)
	if old == nil || old.conf == nil || s.conf == nil || string(old.conf.list.Bytes) != string(s.conf.list.Bytes) {
		n.check.forget()
	}
}

func (n *Network) readConf() *confState {
	files, err := confFiles(n.cfg.ConfDir)
	if err != nil {
		return &confState{reason: fmt.Errorf("read CNI configuration directory: %w", err)}
	}
	s := &confState{}
	for _, path := range files {
		list, err := loadConf(path)
		if err != nil {
			s.problems = append(s.problems, fmt.Sprintf("%s: %v", path, err))
			continue
		}
		s.conf = &conf{file: filepath.Base(path), list: list}
		return s
	}
	switch {
	case len(files) > 0:
		// A broken file says that somebody wants another network than the
		// default one; pods on the wrong network help nobody.
		s.reason = fmt.Errorf("no valid CNI configuration in %s: %s", n.cfg.ConfDir, strings.Join(s.problems, "; "))
	case n.cfg.DefaultNetwork.Disabled:
		s.reason = fmt.Errorf("no CNI configuration in %s and the default network is disabled: "+
			"add one or set network.default = true", n.cfg.ConfDir)
	default:
		s.conf, s.reason = n.defaultConf()
	}
	return s
}

func (n *Network) defaultConf() (*conf, error) {
	ipv6, err := kernelHasIPv6()
	if err != nil {
		return nil, err
	}
	list, err := n.defaultNetwork().confList(ipv6)
	if err != nil {
		return nil, err
	}
	return &conf{list: list}, nil
}

// confFiles lists the configuration files in dir in lexical order. A directory
// that does not exist has none.
func confFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conflist", ".conf", ".json":
			if !e.IsDir() {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}

// maxConfSize bounds a configuration file; real ones have a few kilobytes.
const maxConfSize = 1 << 20

// loadConf reads a list or a single plugin's configuration.
func loadConf(path string) (*libcni.NetworkConfigList, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxConfSize {
		return nil, fmt.Errorf("is no regular file of at most %d bytes", maxConfSize)
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConf(doc, filepath.Dir(path))
}

// parseConf makes one self-contained list of doc: plugins that a list keeps in
// files of their own, in dir/<name>/*.conf, become part of its bytes, so that
// an intent holds all that DEL needs.
func parseConf(doc []byte, dir string) (*libcni.NetworkConfigList, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(doc, &raw); err != nil {
		return nil, describeJSONError(doc, err)
	}
	_, isList := raw["plugins"]
	_, isPlugin := raw["type"]
	if isPlugin && !isList {
		// The single plugin form: a list of one, as libcni has it.
		wrapped := map[string]json.RawMessage{"plugins": json.RawMessage("[" + string(doc) + "]")}
		for _, key := range []string{"name", "cniVersion"} {
			if v, ok := raw[key]; ok {
				wrapped[key] = v
			}
		}
		raw = wrapped
	}
	list, err := decodeList(raw)
	if err != nil {
		return nil, err
	}
	if !isPlugin && !list.LoadOnlyInlinedPlugins && dir != "" && utils.ValidateNetworkName(list.Name) == nil {
		more, err := libcni.NetworkPluginConfsFromFiles(dir, list.Name)
		if err != nil {
			return nil, err
		}
		if len(more) > 0 {
			if list, err = inline(raw, append(list.Plugins, more...)); err != nil {
				return nil, err
			}
		}
	}
	return list, validateList(list)
}

func decodeList(raw map[string]json.RawMessage) (*libcni.NetworkConfigList, error) {
	doc, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(doc)
}

func inline(raw map[string]json.RawMessage, plugins []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	all := make([]json.RawMessage, 0, len(plugins))
	for _, p := range plugins {
		all = append(all, p.Bytes)
	}
	doc, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	raw["plugins"] = doc
	return decodeList(raw)
}

// pluginName is what a plugin's type may be: it becomes part of a path
// (CVE-2021-20206).
var pluginName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

func validateList(list *libcni.NetworkConfigList) error {
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return fmt.Errorf("network name %q: %w", list.Name, err)
	}
	if list.CNIVersion != "" {
		newer, err := version.GreaterThan(list.CNIVersion, version.Current())
		if err != nil {
			return fmt.Errorf("cniVersion %q: %w", list.CNIVersion, err)
		}
		if newer {
			return fmt.Errorf("cniVersion %q is newer than %s, the newest that is supported", list.CNIVersion, version.Current())
		}
	}
	if len(list.Plugins) == 0 {
		return errors.New("it has no plugins")
	}
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name != "" && !pluginName.MatchString(name) {
				return fmt.Errorf("plugin type %q is not a bare file name", name)
			}
		}
	}
	return nil
}

// describeJSONError adds the line to what encoding/json says.
func describeJSONError(doc []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	line := 1 + strings.Count(string(doc[:min(int(syntax.Offset), len(doc))]), "\n")
	return fmt.Errorf("line %d: %w", line, err)
}

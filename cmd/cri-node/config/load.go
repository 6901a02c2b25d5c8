package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultPath is the file Load reads where none is named.
const DefaultPath = "/etc/cri-node/config.toml"

// Override sets one key from the command line, over all files.
type Override struct {
	Source string // who says so, for messages: "--root"
	Key    string // dotted: "server.listen"
	Value  any    // string, int, bool
}

// Load returns the defaults, overlaid with the file at path, the files of its
// sibling directory path + ".d", and the overrides, in this order. An empty
// path means DefaultPath, which alone may be absent. The result has been
// validated. The error names every mistake that can be told from the others:
// of a file that has one of form, only that.
func Load(path string, overrides ...Override) (*Config, error) {
	files, err := findFiles(path)
	if err != nil {
		return nil, err
	}
	c := Default()
	c.origins = make(map[string]origin)
	var errs []error
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		errs = append(errs, c.merge(file, data))
	}
	for _, o := range overrides {
		errs = append(errs, c.override(o))
	}
	c.derive()
	if err := errors.Join(append(errs, c.Validate())...); err != nil {
		return nil, err
	}
	return c, nil
}

// derive fills in what follows from other keys unless it was set.
func (c *Config) derive() {
	if _, set := c.origins["server.listen"]; !set {
		c.Server.Listen = unixScheme + filepath.Join(c.State, "cri.sock")
	}
	if _, set := c.origins["admin.address"]; !set {
		c.Admin.Address = unixScheme + filepath.Join(c.State, "admin.sock")
	}
	for name, value := range c.Runtime.DefaultSysctls {
		if value == "" {
			delete(c.Runtime.DefaultSysctls, name)
		}
	}
	for i, name := range c.Runtime.DefaultCapabilities {
		c.Runtime.DefaultCapabilities[i] = canonicalCapability(name)
	}
}

// findFiles lists what to read, in order.
func findFiles(path string) ([]string, error) {
	mayBeAbsent := path == ""
	if mayBeAbsent {
		path = DefaultPath
	}
	var files []string
	_, err := os.Stat(path)
	switch {
	case err == nil:
		files = append(files, path)
	case !mayBeAbsent || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	entries, err := os.ReadDir(path + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read configuration directory: %w", err)
	}
	for _, entry := range entries { // ReadDir sorts by name
		if name := entry.Name(); filepath.Ext(name) == ".toml" && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(path+".d", name))
		}
	}
	return files, nil
}

// override applies o as a document of one line, so that a flag goes through the
// same checks as a file.
func (c *Config) override(o Override) error {
	line, err := toml.Marshal(map[string]any{"value": o.Value})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Source, err)
	}
	_, value, _ := bytes.Cut(line, []byte("="))
	if err := c.merge("", append([]byte(o.Key+" ="), value...)); err != nil {
		return fmt.Errorf("%s: %w", o.Source, err)
	}
	c.origins[o.Key] = origin{source: o.Source}
	return nil
}

// merge decodes one document over c: values and lists are replaced, tables
// merged.
func (c *Config) merge(source string, data []byte) error {
	if c.origins == nil {
		c.origins = make(map[string]origin)
	}
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := decoder.Decode(c); err != nil {
		// What was decoded up to there is checked as well, and needs its lines.
		_ = c.recordOrigins(source, data)
		return explain(source, data, err)
	}
	return c.recordOrigins(source, data)
}

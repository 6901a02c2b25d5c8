package config

import (
	"bytes"
	"fmt"
	"io"
	"sort"

	"github.com/pelletier/go-toml/v2"
)

// Write prints c as a file that Load would read back to the same values.
func (c *Config) Write(w io.Writer) error {
	if err := toml.NewEncoder(w).SetIndentTables(false).Encode(c); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return nil
}

// Changed lists the keys whose values differ between two configurations, sorted.
func Changed(old, new *Config) ([]string, error) {
	before, err := flatten(old)
	if err != nil {
		return nil, err
	}
	after, err := flatten(new)
	if err != nil {
		return nil, err
	}
	var changed []string
	for key, value := range before {
		if other, ok := after[key]; !ok || other != value {
			changed = append(changed, key)
		}
	}
	for key := range after {
		if _, ok := before[key]; !ok {
			changed = append(changed, key)
		}
	}
	sort.Strings(changed)
	return changed, nil
}

// flatten turns a configuration into dotted keys and printed values.
func flatten(c *Config) (map[string]string, error) {
	var doc bytes.Buffer
	if err := c.Write(&doc); err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := toml.Unmarshal(doc.Bytes(), &tree); err != nil {
		return nil, fmt.Errorf("parse printed configuration: %w", err)
	}
	flat := make(map[string]string)
	flattenInto(flat, "", tree)
	return flat, nil
}

func flattenInto(flat map[string]string, prefix string, tree map[string]any) {
	for key, value := range tree {
		if sub, ok := value.(map[string]any); ok {
			flattenInto(flat, prefix+key+".", sub)
			continue
		}
		flat[prefix+key] = fmt.Sprint(value)
	}
}

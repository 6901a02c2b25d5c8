package containers

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/argument"
)

// environment puts the variables of files and flags together; of a name that is
// there twice the last one counts. A name alone is taken from the client, and
// left out where the client has none.
func environment(m Machine, files, flags []string) ([]*runtimeapi.KeyValue, error) {
	var all []*runtimeapi.KeyValue
	index := make(map[string]int)
	add := func(s string) error {
		name, value, has := strings.Cut(s, "=")
		if name == "" {
			return fmt.Errorf("invalid environment variable: %q", s)
		}
		if !has {
			var ok bool
			if value, ok = m.LookupEnv(name); !ok {
				return nil
			}
		}
		if i, ok := index[name]; ok {
			all[i].Value = []byte(value)
			return nil
		}
		index[name] = len(all)
		all = append(all, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
		return nil
	}
	for _, file := range files {
		lines, err := readPairs(m, file)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			if err := add(line); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	for _, flag := range flags {
		if err := add(flag); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readPairs reads the lines of a file of NAME=VALUE, as docker does: nothing is
// unquoted, lines that begin with # are comments.
func readPairs(m Machine, file string) ([]string, error) {
	data, err := m.ReadFile(file)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var lines []string
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimLeftFunc(scanner.Text(), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("%s:%d: is no UTF-8", file, number)
		}
		name, _, _ := strings.Cut(line, "=")
		if name == "" {
			return nil, fmt.Errorf("%s:%d: no variable name before =", file, number)
		}
		if strings.ContainsFunc(name, unicode.IsSpace) {
			return nil, fmt.Errorf("%s:%d: variable %q contains whitespaces", file, number, name)
		}
		lines = append(lines, line)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return lines, nil
}

// pairs puts KEY=VALUE of files and flags into a map; nil where there are none.
func pairs(m Machine, what string, files, flags []string) (map[string]string, error) {
	var list []string
	for _, file := range files {
		lines, err := readPairs(m, file)
		if err != nil {
			return nil, err
		}
		list = append(list, lines...)
	}
	all, err := argument.Pairs(what, append(list, flags...))
	if err != nil || len(all) == 0 {
		return nil, err //nolint:nilnil // none
	}
	return all, nil
}

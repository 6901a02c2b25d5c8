package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// The OCI runtimes that need no configuration, the preferred one first.
func builtInHandlers() []string { return []string{"crun", "runc"} }

func builtInHandler(name string) bool { return slices.Contains(builtInHandlers(), name) }

// probeTimeout bounds how long an OCI runtime may take to print its version.
const probeTimeout = 10 * time.Second

// ResolveHandlers finds the executable of each handler and chooses the default
// one. exeDir is the directory of the cri-node executable, whose neighbours win
// over what the machine has, because they were built to go with it.
//
// A configured handler whose executable is missing or does not run is an error;
// crun and runc without configuration are simply not offered then.
func (c *Config) ResolveHandlers(exeDir string) (map[string]Handler, string, error) {
	resolved := make(map[string]Handler)
	dirs := searchDirs(exeDir)
	for _, name := range slices.Sorted(maps.Keys(c.Runtime.Handlers)) {
		h := c.Runtime.Handlers[name]
		found, err := resolve(name, h, dirs)
		if err != nil {
			return nil, "", c.handlerError(name, err)
		}
		resolved[name] = found
	}
	for _, name := range builtInHandlers() {
		if _, ok := resolved[name]; ok {
			continue
		}
		if found, err := resolve(name, Handler{}, dirs); err == nil {
			resolved[name] = found
		}
	}
	name, err := c.chooseDefault(resolved, dirs)
	if err != nil {
		return nil, "", err
	}
	return resolved, name, nil
}

// chooseDefault takes the configured default, else the first built-in one.
func (c *Config) chooseDefault(resolved map[string]Handler, dirs []string) (string, error) {
	if name := c.Runtime.DefaultHandler; name != "" {
		if _, ok := resolved[name]; ok {
			return name, nil
		}
		_, err := resolve(name, Handler{}, dirs)
		return "", fmt.Errorf("runtime.default_handler: %w", err)
	}
	for _, name := range builtInHandlers() {
		if _, ok := resolved[name]; ok {
			return name, nil
		}
	}
	if len(resolved) == 1 {
		for name := range resolved {
			return name, nil
		}
	}
	if len(resolved) > 1 {
		return "", errors.New("runtime.default_handler: neither crun nor runc found, want the name of another handler")
	}
	return "", fmt.Errorf("find an OCI runtime: neither crun nor runc runs from any of %q; install one or name one in [runtime.handlers]", dirs)
}

func (c *Config) handlerError(name string, err error) error {
	key := "runtime.handlers." + name
	for _, k := range []string{key + ".path", key} {
		if o, ok := c.origins[k]; ok {
			return fmt.Errorf("%s: %s: %w", o, k, err)
		}
	}
	return fmt.Errorf("%s: %w", key, err)
}

// libraryDirs is where an installation has what goes with the executable: below
// the prefix it is in, or the usual one.
func libraryDirs(exeDir string) []string {
	own := filepath.Join(filepath.Dir(exeDir), "lib", "cri-node")
	return []string{own, "/usr/local/lib/cri-node"}
}

// searchDirs is where executables are looked for, each directory once.
func searchDirs(exeDir string) []string {
	dirs := append([]string{exeDir}, libraryDirs(exeDir)...)
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	dirs = append(dirs, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	seen := make(map[string]bool)
	var unique []string
	for _, dir := range dirs {
		// A relative directory in PATH would run what lies around there.
		if filepath.IsAbs(dir) && !seen[dir] {
			seen[dir] = true
			unique = append(unique, dir)
		}
	}
	return unique
}

// resolve returns h with the path of an executable that runs.
func resolve(name string, h Handler, dirs []string) (Handler, error) {
	if h.Path != "" {
		return h, probe(h.Path)
	}
	var errs []error
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if !executable(path) {
			continue
		}
		if err := probe(path); err != nil {
			errs = append(errs, err)
			continue
		}
		h.Path = path
		return h, nil
	}
	if len(errs) == 0 {
		return Handler{}, fmt.Errorf("find %s in %q: %w", name, dirs, exec.ErrNotFound)
	}
	return Handler{}, errors.Join(errs...)
}

// probe runs "PATH --version", which a runtime built for another machine, or
// one that misses a shared library, cannot answer.
func probe(path string) error {
	if !executable(path) {
		return fmt.Errorf("%s is no executable file", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s --version: %w: %.200q", path, err, out)
	}
	return nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// CNIPluginDirs is where CNI plugins are looked for: the configured
// directories, then those that come with cri-node.
func (c *Config) CNIPluginDirs(exeDir string) []string {
	dirs := slices.Clone(c.Network.PluginDirs)
	for _, dir := range append([]string{exeDir}, libraryDirs(exeDir)...) {
		if dir = filepath.Join(dir, "cni"); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

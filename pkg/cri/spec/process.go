package spec

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is what a process finds its programs in when nobody says.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// setProcess fills in what is run: arguments, environment, directory, limits.
func (b *builder) setProcess(context.Context) error {
	args, err := commandLine(b.cfg, b.image.Config.Entrypoint, b.image.Config.Cmd)
	if err != nil {
		return err
	}
	env, err := b.environment()
	if err != nil {
		return err
	}
	cwd, err := workingDir(b.cfg.GetWorkingDir(), b.image.Config.WorkingDir)
	if err != nil {
		return err
	}
	if err := validateArgv("config.command", args, env); err != nil {
		return err
	}
	p := b.spec.Process
	p.Args, p.Env, p.Cwd = args, env, cwd
	p.Rlimits = capRlimits(b.in.Defaults.Rlimits, b.in.Host.MaxRlimits)
	return nil
}

// commandLine applies the rule of Kubernetes: a command replaces the image's
// entrypoint and drops its arguments, arguments alone replace the image's.
func commandLine(cfg *runtimeapi.ContainerConfig, entrypoint, cmd []string) ([]string, error) {
	switch {
	case len(cfg.GetCommand()) > 0:
		entrypoint, cmd = cfg.GetCommand(), cfg.GetArgs()
	case len(cfg.GetArgs()) > 0:
		cmd = cfg.GetArgs()
	}
	args := slices.Concat(entrypoint, cmd)
	if len(args) == 0 {
		return nil, invalid("config.command", "neither the request nor the image says what to run")
	}
	if args[0] == "" {
		return nil, invalid("config.command", "first element is empty")
	}
	return args, nil
}

// environment merges, weakest first: what every container gets, the image's,
// the operator's and the request's.
func (b *builder) environment() ([]string, error) {
	env := environ{}
	env.set(defaultPath)
	if b.in.Pod.HostnameValue != "" {
		env.set("HOSTNAME=" + b.in.Pod.HostnameValue)
	}
	if b.cfg.GetTty() {
		env.set("TERM=xterm")
	}
	for i, kv := range b.image.Config.Env {
		field := fmt.Sprintf("image config.Env[%d]", i)
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return nil, invalid(field, "%s is not NAME=value", quote(kv))
		}
		if strings.ContainsRune(kv, 0) || !utf8.ValidString(kv) {
			return nil, invalid(field, "%s has a NUL or is not UTF-8", quote(key))
		}
		env.set(kv)
	}
	for _, kv := range b.in.Defaults.Env {
		env.set(kv)
	}
	for _, kv := range b.cfg.GetEnvs() {
		env.set(kv.GetKey() + "=" + string(kv.GetValue()))
	}
	return env.list, nil
}

// environ is an environment in which a later value replaces an earlier one
// in place.
type environ struct {
	list  []string
	index map[string]int
}

func (e *environ) set(kv string) {
	if e.index == nil {
		e.index = make(map[string]int)
	}
	key, _, _ := strings.Cut(kv, "=")
	if i, ok := e.index[key]; ok {
		e.list[i] = kv
		return
	}
	e.index[key] = len(e.list)
	e.list = append(e.list, kv)
}

// capRlimits lowers limits to what may be set here, where raising a hard limit
// is a privilege that may be missing.
func capRlimits(limits []specs.POSIXRlimit, most map[string]uint64) []specs.POSIXRlimit {
	limits = slices.Clone(limits)
	for i, l := range limits {
		if m, ok := most[l.Type]; ok {
			limits[i].Hard, limits[i].Soft = min(l.Hard, m), min(l.Soft, m)
		}
	}
	return limits
}

// Terminal says whether an exec has a terminal of its own.
type Terminal bool

// The two kinds of exec.
const (
	WithTerminal    Terminal = true
	WithoutTerminal Terminal = false
)

// Process returns the process of an exec in a container whose first process is
// init, of its stored spec: the same user, groups, capabilities, environment,
// directory, limits and confinement, another command line. init is not
// changed, and shares no memory with the result.
func Process(init *specs.Process, cmd []string, terminal Terminal) (*specs.Process, error) {
	if err := ValidateExec(cmd); err != nil {
		return nil, err
	}
	// The type is a tree of slices and pointers that grows with each version
	// of the specification, and its JSON is its definition.
	doc, err := json.Marshal(init)
	if err != nil {
		return nil, fmt.Errorf("encode process of the container: %w", err)
	}
	p := &specs.Process{}
	if err := json.Unmarshal(doc, p); err != nil {
		return nil, fmt.Errorf("decode process of the container: %w", err)
	}
	p.Args = slices.Clone(cmd)
	p.CommandLine = ""
	p.ConsoleSize = nil
	p.Terminal = bool(terminal)
	if bool(terminal) && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return p, nil
}

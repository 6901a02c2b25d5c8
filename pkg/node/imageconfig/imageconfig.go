// Package imageconfig changes the configuration of an image the way that commit
// and import do: by instructions of a Dockerfile.
package imageconfig

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is the configuration of an image, with what docker adds to it.
type Config = dockerspec.DockerOCIImage

// Parse reads a configuration.
func Parse(b []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("parse image config: %w", err)
	}
	return c, nil
}

// New is a configuration for an image of no layers.
func New(platform ocispec.Platform) *Config {
	c := &Config{}
	c.Platform = platform
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	return c
}

// AddLayer adds a layer and the entry of the history that it came with.
func AddLayer(c *Config, layer digest.Digest, at time.Time, h ocispec.History) {
	at = at.UTC()
	h.Created, c.Created = &at, &at
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = append(slices.Clone(c.RootFS.DiffIDs), layer)
	c.History = append(slices.Clone(c.History), h)
}

// Change applies instructions such as `CMD ["sh"]`, each a line of a Dockerfile.
// Those that would make a layer are refused.
func Change(c *Config, lines []string) error {
	for _, line := range lines {
		if err := change(c, line); err != nil {
			return fmt.Errorf("change %.200q: %w: %w", line, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func change(c *Config, line string) error {
	ast, err := parser.Parse(strings.NewReader(line))
	if err != nil {
		return err
	}
	for _, node := range ast.AST.Children {
		command, err := instructions.ParseInstruction(node)
		if err != nil {
			return err
		}
		if quoted, ok := command.(instructions.SupportsSingleWordExpansion); ok {
			err := quoted.Expand(func(word string) (string, error) {
				plain, _, err := shell.NewLex('\\').ProcessWord(word, shell.EnvsFromSlice(c.Config.Env))
				return plain, err
			})
			if err != nil {
				return err
			}
		}
		if err := apply(c, command, node); err != nil {
			return err
		}
	}
	return nil
}

func apply(c *Config, command any, node *parser.Node) error {
	switch i := command.(type) {
	case *instructions.CmdCommand:
		c.Config.Cmd = commandLine(c, i.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		c.Config.Entrypoint = commandLine(c, i.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, kv := range i.Env {
			c.Config.Env = SetEnv(c.Config.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		c.Config.Labels = maps.Clone(c.Config.Labels)
		if c.Config.Labels == nil {
			c.Config.Labels = map[string]string{}
		}
		for _, kv := range i.Labels {
			c.Config.Labels[kv.Key] = kv.Value
		}
	case *instructions.ExposeCommand:
		return expose(c, i.Ports)
	case *instructions.HealthCheckCommand:
		if i.Health != nil {
			c.Config.Healthcheck = i.Health
		}
	case *instructions.OnbuildCommand:
		c.Config.OnBuild = append(slices.Clone(c.Config.OnBuild), i.Expression)
	case *instructions.ShellCommand:
		c.Config.Shell = i.Shell
	case *instructions.StopSignalCommand:
		c.Config.StopSignal = i.Signal
	case *instructions.UserCommand:
		c.Config.User = i.User
	case *instructions.VolumeCommand:
		c.Config.Volumes = with(c.Config.Volumes, i.Volumes...)
	case *instructions.WorkdirCommand:
		if strings.HasPrefix(i.Path, "/") {
			c.Config.WorkingDir = i.Path
		} else {
			c.Config.WorkingDir = strings.TrimSuffix("/"+strings.Trim(c.Config.WorkingDir, "/"), "/") + "/" + i.Path
		}
	default:
		return fmt.Errorf("%s is no instruction that an image can be changed by: "+
			"CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR", strings.ToUpper(node.Value))
	}
	return nil
}

// commandLine puts the shell form into the image's shell.
func commandLine(c *Config, line instructions.ShellDependantCmdLine) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	shell := c.Config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(line.CmdLine, " "))
}

// SetEnv gives a variable a value.
func SetEnv(env []string, key, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, key+"=") })
	return append(env, key+"="+value)
}

func expose(c *Config, ports []string) error {
	for _, p := range ports {
		number, protocol, found := strings.Cut(p, "/")
		if !found {
			protocol = "tcp"
		}
		low, high, isRange := strings.Cut(number, "-")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil || to < from {
			return fmt.Errorf("port %q: want PORT[-PORT][/PROTOCOL]", p)
		}
		var keys []string
		for n := from; n <= to; n++ {
			keys = append(keys, fmt.Sprintf("%d/%s", n, strings.ToLower(protocol)))
		}
		c.Config.ExposedPorts = with(c.Config.ExposedPorts, keys...)
	}
	return nil
}

func with(set map[string]struct{}, keys ...string) map[string]struct{} {
	set = maps.Clone(set)
	if set == nil {
		set = map[string]struct{}{}
	}
	for _, k := range keys {
		set[k] = struct{}{}
	}
	return set
}

package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/build"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Tools are verbs of others that compose needs.
type Tools struct {
	// Build is `build` with these arguments.
	Build func(cmd *cobra.Command, args []string) error
	// Pull pulls an image and shows how it goes.
	Pull func(cmd *cobra.Command, n *client.Node, image, platform string) error
	// Verb is one for containers or images, by its name.
	Verb func(name string) *cobra.Command
}

// command is `compose`.
type command struct {
	flags  *client.Flags
	tools  Tools
	source source
}

// Command is `compose` with all its verbs.
func Command(flags *client.Flags, tools Tools) *cobra.Command {
	c := &command{flags: flags, tools: tools}
	cmd := &cobra.Command{
		Use:   "compose",
		Short: "Run the containers of a Compose file together",
		Example: "  cri-node compose up -d\n" +
			"  cri-node compose ps\n" +
			"  cri-node compose logs -f web\n" +
			"  cri-node compose down",
		Args: argument.None(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	// They come before the verb, as for docker compose: -f is another one's after it.
	c.source.addFlags(cmd.Flags())
	cmd.AddCommand(c.up(), c.down(), c.ps(), c.logs(), c.exec(), c.build(), c.pull(), c.config(),
		c.stopVerb(), c.startVerb(), c.restartVerb(), c.killVerb(), c.rm(),
		c.create(), c.runVerb(), c.attach(), c.cp(), c.port(), c.top(), c.stats(), c.pause(), c.unpause(), c.wait(), c.scale(),
		c.push(), c.imagesVerb(), c.ls())
	return cmd
}

// run gives work the daemon.
func (c *command) run(work func(n *client.Node) error) error {
	n, err := c.flags.Open()
	if err != nil {
		return err
	}
	defer n.Close() //nolint:errcheck // nothing is lost with it
	return c.flags.Explain(work(n))
}

// imageInfo is what matters of a service's image.
type imageInfo struct {
	ID string
	// Volumes are the paths that it declares as such.
	Volumes []string
}

// images makes the images of all services present.
func (c *command) images(ctx context.Context, n *client.Node, p *types.Project, o upOptions) (map[string]imageInfo, error) {
	all := map[string]imageInfo{}
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		s := p.Services[name]
		info, err := c.image(ctx, n, p, &s, o)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		all[name] = info
	}
	return all, nil
}

// image makes the image of one service present: it is built where it has to be,
// and else pulled as the pull policy says.
func (c *command) image(ctx context.Context, n *client.Node, p *types.Project, s *types.ServiceConfig, o upOptions) (info imageInfo, err error) {
	image := imageOf(p, s)
	if info, err = inspectImage(ctx, n, image); err != nil {
		return info, err
	}
	id := info.ID
	policy := s.PullPolicy
	if o.pull != "" {
		policy = o.pull
	}
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	switch {
	case s.Build != nil && (o.build || policy == "build" || id == "" && !o.noBuild):
		err = c.buildImage(cmd, p, s, nil)
	case s.Build != nil && id == "":
		return info, fmt.Errorf("image %s is not built, and --no-build was given", image)
	case s.Build == nil && (policy == "always" || id == "" && policy != "never"):
		err = c.tools.Pull(cmd, n, image, s.Platform)
	case id == "":
		return info, fmt.Errorf("image %s is not present, and it is not to be pulled", image)
	default:
		return info, nil
	}
	if err != nil {
		return info, err
	}
	return inspectImage(ctx, n, image)
}

// inspectImage returns no id for an image that is not present.
func inspectImage(ctx context.Context, n *client.Node, image string) (imageInfo, error) {
	answer, err := n.Images.Inspect(ctx, &nodev1.InspectImageRequest{Image: image})
	switch {
	case gone(err):
		return imageInfo{}, nil
	case err != nil:
		return imageInfo{}, err
	}
	var known struct {
		ID     string `json:"Id"`
		Config struct{ Volumes map[string]struct{} }
	}
	if err := json.Unmarshal(answer.GetJson(), &known); err != nil {
		return imageInfo{}, fmt.Errorf("read the description of image %s: %w", image, err)
	}
	return imageInfo{known.ID, slices.Sorted(maps.Keys(known.Config.Volumes))}, nil
}

// buildImage builds the image of a service.
func (c *command) buildImage(cmd *cobra.Command, p *types.Project, s *types.ServiceConfig, more []string) error {
	b := s.Build
	if b.DockerfileInline != "" {
		return errors.New("build.dockerfile_inline is not supported: write it to a file")
	}
	args := []string{"--tag", imageOf(p, s)}
	add := func(flag string, values ...string) {
		for _, v := range values {
			args = append(args, flag, v)
		}
	}
	add("--tag", b.Tags...)
	if b.Dockerfile != "" {
		dockerfile := b.Dockerfile
		if !strings.HasPrefix(dockerfile, "/") && !build.IsURL(b.Context) {
			dockerfile = b.Context + "/" + dockerfile
		}
		add("--file", dockerfile)
	}
	add("--build-arg", equals(b.Args)...)
	add("--label", pairs(b.Labels)...)
	add("--build-context", pairs(b.AdditionalContexts)...)
	add("--add-host", b.ExtraHosts.AsList(":")...)
	add("--platform", b.Platforms...)
	for _, secret := range b.Secrets {
		from := p.Secrets[secret.Source]
		switch id := secret.Source; {
		case from.File != "":
			add("--secret", "id="+id+",src="+from.File)
		case from.Environment != "":
			add("--secret", "id="+id+",env="+from.Environment)
		}
	}
	for flag, value := range map[string]string{"--target": b.Target, "--network": b.Network, "--shm-size": size(b.ShmSize)} {
		if value != "" {
			add(flag, value)
		}
	}
	if b.NoCache {
		args = append(args, "--no-cache")
	}
	if b.Pull {
		args = append(args, "--pull")
	}
	args = append(append(args, more...), b.Context)
	return c.tools.Build(cmd, args)
}

// verb is a command for the containers of some services, or of all.
func (c *command) verb(use, short, example string, addFlags func(cmd *cobra.Command), work func(cmd *cobra.Command, n *client.Node, p *types.Project) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " [SERVICE...]", Short: short, Example: "  cri-node compose " + example, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, services []string) error {
			return c.run(func(n *client.Node) error {
				p, err := c.source.load(cmd.Context())
				if err != nil {
					return err
				}
				if p, err = selected(p, services, true); err != nil {
					return err
				}
				return work(cmd, n, p)
			})
		},
	}
	if addFlags != nil {
		addFlags(cmd)
	}
	return cmd
}

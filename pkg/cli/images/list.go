package images

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// listOptions are the flags of images.
type listOptions struct {
	output.Options
	digests bool
	filters []string
}

// none stands where an image has no name.
const none = "<none>"

func filterKeys() []string { return []string{"dangling", "label", "reference", "before", "since"} }

func imagesCommand(flags *client.Flags) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Long: "List the images on this machine, those of kubelet included.\n\n" +
			"Filters: dangling=true|false, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE. A template\n" +
			"can name .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size .Containers .Labels .Platform .Pinned.",
		Example: "  cri-node images\n  cri-node images --filter dangling=true -q\n" +
			"  cri-node images --format '{{.Repository}}:{{.Tag}} {{.Size}}'\n  cri-node images 'registry.example.org/*' -o json",
		Args:              argument.Between(0, 1),
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Images.List(ctx, &nodev1.ListImagesRequest{})
				if err != nil {
					return err
				}
				chosen, err := o.choose(r.GetImages(), args)
				if err != nil {
					return err
				}
				return o.list(chosen, time.Now()).Print(cmd.OutOrStdout(), o.Options)
			})
		},
	}
	f := cmd.Flags()
	o.AddListFlags(f)
	f.BoolP("all", "a", false, "all images (there are no intermediate ones to leave out)")
	f.BoolVar(&o.digests, "digests", false, "show digests")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "those with `KEY=VALUE` only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys(filterKeys()...)) // the flag is there, see above
	return cmd
}

// named is one name of an image, as people write it.
type named struct{ repository, tag, digest string }

func (n named) String() string {
	if n.tag == none {
		return n.repository + "@" + n.digest
	}
	return n.repository + ":" + n.tag
}

// familiar leaves out of a name what docker leaves out.
func familiar(name string) string {
	if short, ok := strings.CutPrefix(name, "docker.io/library/"); ok && !strings.Contains(short, "/") {
		return short
	}
	return strings.TrimPrefix(name, "docker.io/")
}

// names are a row each: tags with the digest of their repository, and digests of
// repositories without a tag.
func names(img *nodev1.Image) []named {
	digests := map[string]string{}
	for _, d := range img.GetDigests() {
		repository, digest, _ := strings.Cut(d, "@")
		digests[familiar(repository)] = digest
	}
	var all []named
	tagged := map[string]bool{}
	for _, t := range img.GetTags() {
		i := strings.LastIndex(t, ":")
		repository := familiar(t[:max(i, 0)])
		digest := digests[repository]
		if digest == "" {
			digest = none
		}
		tagged[repository] = true
		all = append(all, named{repository, t[i+1:], digest})
	}
	for _, repository := range slices.Sorted(maps.Keys(digests)) {
		if !tagged[repository] {
			all = append(all, named{repository, none, digests[repository]})
		}
	}
	if len(all) == 0 {
		all = append(all, named{none, none, none})
	}
	return all
}

// listed is an image under one name.
type listed struct {
	*nodev1.Image
	named
}

// choose finds the images that are asked for.
func (o *listOptions) choose(images []*nodev1.Image, args []string) ([]listed, error) {
	var tests []func(listed) bool
	if len(args) > 0 {
		pattern := familiar(args[0])
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", args[0], err)
		}
		tests = append(tests, func(l listed) bool { return matches(pattern, l.named) })
	}
	for _, f := range o.filters {
		key, value, err := argument.Filter(f, filterKeys()...)
		if err != nil {
			return nil, err
		}
		test, err := o.filter(key, value, images)
		if err != nil {
			return nil, err
		}
		tests = append(tests, test)
	}
	var chosen []listed
	for _, img := range images {
		for _, n := range names(img) {
			l := listed{img, n}
			if !slices.ContainsFunc(tests, func(test func(listed) bool) bool { return !test(l) }) {
				chosen = append(chosen, l)
			}
		}
	}
	return chosen, nil
}

func matches(pattern string, n named) bool {
	for _, text := range []string{n.repository, n.String()} {
		if ok, err := path.Match(pattern, text); err == nil && ok {
			return true
		}
	}
	return false
}

func (o *listOptions) filter(key, value string, images []*nodev1.Image) (func(listed) bool, error) {
	switch key {
	case "dangling":
		want, err := argument.Bool(key, value)
		if err != nil {
			return nil, err
		}
		return func(l listed) bool { return (l.tag == none) == want }, nil
	case "label":
		return func(l listed) bool { return argument.HasLabel(l.GetLabels(), value) }, nil
	case "reference":
		if _, err := path.Match(value, ""); err != nil {
			return nil, fmt.Errorf("invalid filter 'reference=%s': %w", value, err)
		}
		return func(l listed) bool { return matches(familiar(value), l.named) }, nil
	case "before", "since":
		i := slices.IndexFunc(images, func(img *nodev1.Image) bool { return is(img, value) })
		if i < 0 {
			return nil, fmt.Errorf("invalid filter '%s=%s': there is no such image", key, value)
		}
		at := images[i].GetCreatedAt()
		if key == "before" {
			return func(l listed) bool { return l.GetCreatedAt() < at }, nil
		}
		return func(l listed) bool { return l.GetCreatedAt() > at }, nil
	}
	return nil, fmt.Errorf("filter %s is not one of images", key) // argument.Filter has refused it
}

// is tells whether a person may mean an image by ref.
func is(img *nodev1.Image, ref string) bool {
	if strings.HasPrefix(strings.TrimPrefix(img.GetId(), "sha256:"), strings.TrimPrefix(ref, "sha256:")) {
		return true
	}
	return slices.ContainsFunc(names(img), func(n named) bool { return n.String() == familiar(ref) || n.String() == familiar(ref)+":latest" })
}

// row is what images and its templates show.
type row struct {
	ID, Repository, Tag, Digest, CreatedSince, CreatedAt, Size string
	Containers, Labels, Platform, Pinned, SharedSize           string
	labels                                                     map[string]string
}

// Label is the value of a label.
func (r row) Label(name string) string { return r.labels[name] }

func (o *listOptions) list(chosen []listed, now time.Time) output.List[row] {
	l := output.List[row]{
		Key: "ID",
		Columns: []output.Column{
			{Field: "Repository", Header: "REPOSITORY"}, {Field: "Tag", Header: "TAG"}, {Field: "Digest", Header: "DIGEST", Hidden: !o.digests},
			{Field: "ID", Header: "IMAGE ID"}, {Field: "CreatedSince", Header: "CREATED"}, {Field: "Size", Header: "SIZE"},
			{Field: "CreatedAt", Header: "CREATED AT", Hidden: true}, {Field: "Labels", Header: "LABELS", Hidden: true},
		},
	}
	raw := []*nodev1.Image{}
	for _, c := range chosen {
		if !slices.Contains(raw, c.Image) {
			raw = append(raw, c.Image)
		} else if o.Quiet && o.Format == "" {
			continue // an id once
		}
		created := time.Unix(0, c.GetCreatedAt())
		r := row{
			ID: output.ShortID(c.GetId()), Repository: c.repository, Tag: c.tag, Digest: c.digest,
			CreatedSince: output.Ago(now, created), CreatedAt: created.Format("2006-01-02 15:04:05 -0700 MST"), Size: output.Size(c.GetSize()),
			Containers: strconv.Itoa(int(c.GetContainers())), Platform: c.GetPlatform(), Pinned: strconv.FormatBool(c.GetPinned()),
			SharedSize: "N/A", labels: c.GetLabels(),
		}
		if o.NoTrunc {
			r.ID = c.GetId()
		}
		r.Labels = output.Labels(c.GetLabels())
		l.Rows = append(l.Rows, r)
	}
	l.Raw = raw
	return l
}

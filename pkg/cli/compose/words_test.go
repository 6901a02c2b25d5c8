package compose

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func TestLoadErrors(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":     {"services: {a: {image: x, comand: y}}", "compose.yaml: services.a.comand: there is no such key"},
		"wrong type":      {"services: {a: {image: x, environment: 5}}", "compose.yaml: services.a.environment must be a mapping"},
		"unknown section": {"servces: {a: {image: x}}", "compose.yaml: additional properties 'servces' not allowed"},
		"wrong value":     {"services: {a: {image: x, mem_limit: lots}}", "compose.yaml: 'services[a].mem_limit' invalid size: 'lots'"},
		"cycle":           {"services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "compose.yaml: dependency cycle detected: a -> b -> a"},
		"no image":        {"services: {a: {command: x}}", `compose.yaml: service "a" has neither an image nor a build context specified`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile("compose.yaml", []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := (&source{name: "x"}).load(t.Context())
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestPlainKeepsOthers(t *testing.T) {
	if got := plain(errors.New("something else")).Error(); got != "something else" {
		t.Errorf("got %q", got)
	}
}

func TestFileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got := fileNames([]string{filepath.Join(here, "a.yaml"), "/elsewhere/b.yaml"}); got != "a.yaml, /elsewhere/b.yaml" {
		t.Errorf("got %s", got)
	}
}

func TestLeftOut(t *testing.T) {
	p := project(t, `
services:
  web:
    image: a
    logging: {driver: syslog}
    links: [db]
    restart: always
    networks: {front: {ipv4_address: 10.0.0.9}, inside: {}}
  db: {image: a, ports: ["80"], tmpfs: [/t], develop: {watch: []}, post_start: [{command: "true"}], networks: [front]}
networks: {front: {}, inside: {internal: true}}
`)
	for name, want := range map[string][]string{
		"web": {"left out: links, logging", "network front: an address", "network inside: internal"},
		"db":  nil,
	} {
		s := p.Services[name]
		got := leftOut(p, &s)
		if len(got) != len(want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], want[i])
			}
		}
	}
}

func TestAnonymousVolumes(t *testing.T) {
	id := strings.Repeat("a", anonymousName)
	r := &nodev1.CreateRequest{
		Volumes: []*nodev1.VolumeMount{{Name: "data", Path: "/data"}, {Path: "/mine/"}},
		Tmpfs:   []*nodev1.Tmpfs{{Path: "/tmp"}},
	}
	imageVolumes(r, []string{"/data/", "/declared", "/tmp", "/", "relative"})
	inherit(r, []*nodev1.Mount{
		{Type: "volume", Source: id, Destination: "/mine"},
		{Type: "volume", Source: "named", Destination: "/declared"},
		{Type: "volume", Source: id, Destination: "/data"},
	})
	var got []string
	for _, v := range r.GetVolumes() {
		got = append(got, v.GetName()+":"+v.GetPath())
	}
	if want := []string{"data:/data", id + ":/mine/", ":/declared"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhoIsRestartedAndFollowed(t *testing.T) {
	p := project(t, `
services:
  web: {image: a, depends_on: {api: {condition: service_started, restart: true}}}
  api: {image: a, depends_on: {db: {condition: service_started, restart: true}}}
  job: {image: a, depends_on: [db], attach: false}
  db: {image: a}
`)
	if got := withRestarted(p, []string{"db"}); !slices.Equal(got, []string{"db", "api", "web"}) {
		t.Errorf("restarted with db: %v", got)
	}
	for name, test := range map[string]struct {
		o           upOptions
		names, want []string
	}{
		"all but those that say no": {upOptions{}, nil, []string{"api", "db", "web"}},
		"the named ones":            {upOptions{}, []string{"web"}, []string{"web"}},
		"dependencies too":          {upOptions{attachDependencies: true, noAttach: []string{"db"}}, []string{"web"}, []string{"api", "web"}},
		"those that are asked for":  {upOptions{attach: []string{"job"}}, nil, []string{"job"}},
	} {
		if got := test.o.attached(p, test.names); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// The Dockerfile of a context elsewhere is looked for there.
func TestBuildOfURL(t *testing.T) {
	for from, want := range map[string]string{
		"https://example.com/a.git#main": "Dockerfile", "/srv/a": "/srv/a/Dockerfile",
	} {
		var args []string
		c := &command{tools: Tools{Build: func(_ *cobra.Command, given []string) error { args = given; return nil }}}
		s := &types.ServiceConfig{Name: "a"}
		s.Build = &types.BuildConfig{Context: from, Dockerfile: "Dockerfile"}
		if err := c.buildImage(&cobra.Command{}, &types.Project{Name: "p"}, s, nil); err != nil {
			t.Fatal(err)
		}
		if i := slices.Index(args, "--file"); i < 0 || args[i+1] != want || args[len(args)-1] != from {
			t.Errorf("%s: build %v", from, args)
		}
	}
}

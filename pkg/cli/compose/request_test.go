package compose

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// project loads a Compose file from text.
func project(t *testing.T, text string) *types.Project {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := source{files: []string{path}, name: "shop"}
	p, err := s.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func makeRequest(t *testing.T, service string) (*types.Project, *nodev1.CreateRequest, error) {
	t.Helper()
	p := project(t, "services:\n  web:\n    image: nginx\n"+indent(service)+"\n  db: {image: postgres}\nvolumes: {data: {}}\nnetworks: {front: {}}\n")
	s := p.Services["web"]
	ports := &containers.Ports{}
	t.Cleanup(ports.Close)
	r, err := request(p, &s, containers.ThisMachine(ports), func(service string) (string, error) {
		if service == "db" {
			return "id-of-db", nil
		}
		return "", errors.New("no such service")
	}, nil)
	return p, r, err
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

func TestRequest(t *testing.T) {
	for name, test := range map[string]struct {
		service string
		check   func(r *nodev1.CreateRequest) bool
	}{
		"command": {"command: [echo, hi there]", func(r *nodev1.CreateRequest) bool {
			return slices.Equal(r.GetContainer().GetArgs(), []string{"echo", "hi there"}) && len(r.GetContainer().GetCommand()) == 0
		}},
		"shell words": {`command: echo "hi there"`, func(r *nodev1.CreateRequest) bool {
			return slices.Equal(r.GetContainer().GetArgs(), []string{"echo", "hi there"})
		}},
		"entrypoint": {"entrypoint: [/bin/sh, -c]\ncommand: [date]", func(r *nodev1.CreateRequest) bool {
			return slices.Equal(r.GetContainer().GetCommand(), []string{"/bin/sh", "-c"}) && slices.Equal(r.GetContainer().GetArgs(), []string{"date"})
		}},
		"no entrypoint": {"entrypoint: []", func(r *nodev1.CreateRequest) bool { return r.GetEntrypointCleared() }},
		"environment": {"environment: {B: two, A: one}", func(r *nodev1.CreateRequest) bool {
			e := r.GetContainer().GetEnvs()
			return len(e) == 2 && e[0].GetKey() == "A" && string(e[1].GetValue()) == "two"
		}},
		"ports": {"ports: ['127.0.0.1:8080:80', '53:53/udp']", func(r *nodev1.CreateRequest) bool {
			p := r.GetPod().GetPortMappings()
			return len(p) == 2 && p[0].GetHostIp() == "127.0.0.1" && p[0].GetHostPort() == 8080 && p[0].GetContainerPort() == 80 &&
				p[1].GetProtocol() == runtimeapi.Protocol_UDP && p[1].GetHostPort() == 53
		}},
		"named volume": {"volumes: ['data:/var/lib']", func(r *nodev1.CreateRequest) bool {
			return len(r.GetVolumes()) == 1 && r.GetVolumes()[0].GetName() == "shop_data" && r.GetVolumes()[0].GetPath() == "/var/lib"
		}},
		"anonymous volume": {"volumes: ['/var/lib']", func(r *nodev1.CreateRequest) bool {
			return len(r.GetVolumes()) == 1 && r.GetVolumes()[0].GetName() == ""
		}},
		"bind": {"volumes: ['./site:/usr/share:ro']", func(r *nodev1.CreateRequest) bool {
			m := r.GetContainer().GetMounts()
			return len(m) == 1 && filepath.Base(m[0].GetHostPath()) == "site" && m[0].GetReadonly()
		}},
		"tmpfs": {"volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m}}]\ntmpfs: [/run]", func(r *nodev1.CreateRequest) bool {
			all := r.GetTmpfs()
			return len(all) == 2 && slices.ContainsFunc(all, func(m *nodev1.Tmpfs) bool {
				return m.GetPath() == "/t" && slices.Equal(m.GetOptions(), []string{"size=1048576"})
			})
		}},
		"default network": {"", func(r *nodev1.CreateRequest) bool {
			n := r.GetNetworks()
			return len(n) == 1 && n[0].GetNetwork() == "shop_default" && slices.Equal(n[0].GetAliases(), []string{"web"})
		}},
		"network with alias": {"networks: {front: {aliases: [www]}}", func(r *nodev1.CreateRequest) bool {
			n := r.GetNetworks()
			return len(n) == 1 && n[0].GetNetwork() == "shop_front" && slices.Equal(n[0].GetAliases(), []string{"web", "www"})
		}},
		"network of a service": {"network_mode: 'service:db'", func(r *nodev1.CreateRequest) bool {
			return r.GetJoin() == "id-of-db" && len(r.GetNetworks()) == 0
		}},
		"no network": {"network_mode: none", func(r *nodev1.CreateRequest) bool { return r.GetNoNetwork() }},
		"restart":    {"restart: on-failure:3", func(r *nodev1.CreateRequest) bool { return r.GetRestart().GetMaximum() == 3 }},
		"deploy": {"deploy: {restart_policy: {condition: any}, resources: {limits: {cpus: '0.5', memory: 64M}}}", func(r *nodev1.CreateRequest) bool {
			res := r.GetContainer().GetLinux().GetResources()
			return r.GetRestart().GetName() == "always" && res.GetMemoryLimitInBytes() == 64<<20 && res.GetCpuQuota() == res.GetCpuPeriod()/2
		}},
		"health": {"healthcheck: {test: [CMD, 'true'], interval: 2s, retries: 4}", func(r *nodev1.CreateRequest) bool {
			h := r.GetHealthcheck()
			return slices.Equal(h.GetTest(), []string{"CMD", "true"}) && h.GetInterval() == 2e9 && h.GetRetries() == 4
		}},
		"no health": {"healthcheck: {disable: true}", func(r *nodev1.CreateRequest) bool {
			return slices.Equal(r.GetHealthcheck().GetTest(), []string{"NONE"})
		}},
		"grace period": {"stop_grace_period: 1m", func(r *nodev1.CreateRequest) bool { return r.GetStopTimeout() == 60 }},
		"ulimits": {"ulimits: {nofile: {soft: 10, hard: 20}}", func(r *nodev1.CreateRequest) bool {
			u := r.GetUlimits()
			return len(u) == 1 && u[0].GetSoft() == 10 && u[0].GetHard() == 20
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, r, err := makeRequest(t, test.service)
			if err != nil {
				t.Fatal(err)
			}
			if !test.check(r) {
				t.Errorf("got %v", r)
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	for name, test := range map[string]struct{ service, want string }{
		"gpus":         {"gpus: all", "gpus"},
		"volumes_from": {"volumes_from: [db]", "volumes_from"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := makeRequest(t, test.service)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "service web") {
				t.Errorf("got %v, want one of %q", err, test.want)
			}
		})
	}
}

func TestHash(t *testing.T) {
	base := types.ServiceConfig{Name: "web"}
	base.Image = "nginx"
	first, err := hash(&base, "sha256:1", nil, "")
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	for name, test := range map[string]struct {
		change func(s *types.ServiceConfig)
		image  string
		files  []inject.File
		peer   string
		same   bool
	}{
		"nothing":      {func(*types.ServiceConfig) {}, "sha256:1", nil, "", true},
		"scale":        {func(s *types.ServiceConfig) { s.Scale = &two }, "sha256:1", nil, "", true},
		"replicas":     {func(s *types.ServiceConfig) { s.Deploy = &types.DeployConfig{Replicas: &two} }, "sha256:1", nil, "", true},
		"dependencies": {func(s *types.ServiceConfig) { s.DependsOn = types.DependsOnConfig{"db": {}} }, "sha256:1", nil, "", true},
		"user":         {func(s *types.ServiceConfig) { s.User = "1" }, "sha256:1", nil, "", false},
		"new image":    {func(*types.ServiceConfig) {}, "sha256:2", nil, "", false},
		"a secret":     {func(*types.ServiceConfig) {}, "sha256:1", []inject.File{{Path: "/run/secrets/a"}}, "", false},
		"another peer": {func(*types.ServiceConfig) {}, "sha256:1", nil, "id", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := base
			test.change(&s)
			got, err := hash(&s, test.image, test.files, test.peer)
			if err != nil {
				t.Fatal(err)
			}
			if (got == first) != test.same {
				t.Errorf("same is %t, want %t", got == first, test.same)
			}
		})
	}
}

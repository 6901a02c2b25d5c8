package compose

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Labels of the containers and volumes of a project: docker compose's.
const (
	labelProject   = "com.docker.compose.project"
	labelService   = "com.docker.compose.service"
	labelNumber    = "com.docker.compose.container-number"
	labelHash      = "com.docker.compose.config-hash"
	labelDirectory = "com.docker.compose.project.working_dir"
	labelVolume    = "com.docker.compose.volume"
	labelFiles     = "com.docker.compose.project.config_files"
	labelOneOff    = "com.docker.compose.oneoff"
)

// labels of container number n of a service.
func labels(p *types.Project, s *types.ServiceConfig, n int, hash string) map[string]string {
	return map[string]string{
		labelProject: p.Name, labelService: s.Name, labelNumber: strconv.Itoa(n),
		labelHash: hash, labelDirectory: p.WorkingDir, labelFiles: strings.Join(p.ComposeFiles, ","), labelOneOff: "False",
	}
}

// containerName is the name of container number n of a service.
func containerName(p *types.Project, s *types.ServiceConfig, n int) string {
	if s.ContainerName != "" {
		return s.ContainerName
	}
	return fmt.Sprintf("%s-%s-%d", p.Name, s.Name, n)
}

// hash tells whether a container is what its service says now. How many there
// are, and who waits for whom, makes no container another one; its image does, and
// so do the files copied into it and the container whose namespaces it shares.
func hash(s *types.ServiceConfig, imageID string, files []inject.File, peer string) (string, error) {
	c := *s
	c.Build, c.Scale, c.DependsOn, c.Profiles, c.PullPolicy = nil, nil, nil, nil, ""
	if c.Deploy != nil {
		deploy := *c.Deploy
		deploy.Replicas = nil
		c.Deploy = &deploy
		if reflect.ValueOf(deploy).IsZero() {
			c.Deploy = nil
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("hash service %s: %w", s.Name, err)
	}
	more, err := json.Marshal(struct {
		Image, Peer string
		Files       []inject.File
	}{imageID, peer, files})
	if err != nil {
		return "", fmt.Errorf("hash service %s: %w", s.Name, err)
	}
	sum := sha256.Sum256(append(text, more...))
	return hex.EncodeToString(sum[:]), nil
}

// list returns the containers of a project by service, in order of their numbers.
// Those that were made by `compose run` are no service's.
func list(ctx context.Context, n *client.Node, project string) (map[string][]*nodev1.Container, error) {
	found, _, err := listAll(ctx, n, project)
	return found, err
}

// listAll returns those of `compose run` as well.
func listAll(ctx context.Context, n *client.Node, project string) (found map[string][]*nodev1.Container, oneOffs []*nodev1.Container, err error) {
	answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return nil, nil, err
	}
	found = map[string][]*nodev1.Container{}
	for _, c := range answer.GetContainers() {
		switch service := c.GetLabels()[labelService]; {
		case c.GetLabels()[labelProject] != project || c.GetKubernetes():
		case c.GetLabels()[labelOneOff] == "True":
			oneOffs = append(oneOffs, c)
		default:
			found[service] = append(found[service], c)
		}
	}
	for _, containers := range found {
		slices.SortFunc(containers, func(a, b *nodev1.Container) int { return cmp.Compare(number(a), number(b)) })
	}
	return found, oneOffs, nil
}

// number of a container within its service; 0 where its label is none.
func number(c *nodev1.Container) int {
	n, _ := strconv.Atoi(c.GetLabels()[labelNumber])
	return n
}

// running says that a container's process is alive.
func running(c *nodev1.Container) bool { return c.GetState() == "running" || c.GetState() == "paused" }

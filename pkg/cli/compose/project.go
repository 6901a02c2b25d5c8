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

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
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
	labelOneOff    = "com.docker.compose.oneoff"
)

// labels of container number n of a service.
func labels(p *types.Project, s *types.ServiceConfig, n int, hash string) map[string]string {
	return map[string]string{
		labelProject: p.Name, labelService: s.Name, labelNumber: strconv.Itoa(n),
		labelHash: hash, labelDirectory: p.WorkingDir, labelOneOff: "False",
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
// are, and who waits for whom, makes no container another one.
func hash(s *types.ServiceConfig, imageID string) (string, error) {
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
	sum := sha256.Sum256(append(text, imageID...))
	return hex.EncodeToString(sum[:]), nil
}

// list returns the containers of a project by service, in order of their numbers.
// Those that were made by `compose run` are no service's.
func list(ctx context.Context, n *client.Node, project string) (map[string][]*nodev1.Container, error) {
	answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return nil, err
	}
	found := map[string][]*nodev1.Container{}
	for _, c := range answer.GetContainers() {
		if c.GetLabels()[labelProject] == project && !c.GetKubernetes() && c.GetLabels()[labelOneOff] != "True" {
			service := c.GetLabels()[labelService]
			found[service] = append(found[service], c)
		}
	}
	for _, containers := range found {
		slices.SortFunc(containers, func(a, b *nodev1.Container) int { return cmp.Compare(number(a), number(b)) })
	}
	return found, nil
}

// number of a container within its service; 0 where its label is none.
func number(c *nodev1.Container) int {
	n, _ := strconv.Atoi(c.GetLabels()[labelNumber])
	return n
}

// running says that a container's process is alive.
func running(c *nodev1.Container) bool { return c.GetState() == "running" || c.GetState() == "paused" }

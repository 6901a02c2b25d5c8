package suite

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"strings"

	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
)

//go:embed coredns.yaml
var coreDNS string

// startDNS makes the cluster's name server and waits until it answers.
func (c *Cluster) startDNS(ctx context.Context) error {
	// Another configuration makes another pod.
	configuration := fmt.Sprintf("%x", sha256.Sum256([]byte(coreDNS)))
	manifest := strings.NewReplacer("$image", c.Images.CoreDNS, "$address", plane.DNS, "$domain", plane.Domain, "$configuration", configuration).Replace(coreDNS)
	if _, err := c.Kubectl.Feed(ctx, manifest, "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := c.Kubectl.Run(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s"); err != nil {
		state, _ := c.Kubectl.Run(ctx, "-n", "kube-system", "describe", "pods")
		return fmt.Errorf("start the name server: %w\n%s", err, state)
	}
	return nil
}

package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/invariant"
)

func (c *Cluster) invariantConfig() invariant.Config {
	config := c.Worker.Node.InvariantConfig()
	config.CgroupParents = []string{c.Worker.Cgroup()}
	return config
}

// finish takes every pod away, looks for what is left behind and for errors, and
// ends the cluster.
func (c *Cluster) finish(ctx context.Context) error {
	left, err := c.Residue(ctx)
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind:\n%s", strings.Join(left, "\n")))
	}
	wrong, scanErr := c.KubeletErrors()
	if len(wrong) > 0 {
		scanErr = errors.Join(scanErr, fmt.Errorf("kubelet's log has %d errors of the runtime:\n%s", len(wrong), strings.Join(wrong, "\n")))
	}
	return errors.Join(err, scanErr, c.Worker.Stop(ctx), c.killPlane(), c.Registry.Close())
}

func (c *Cluster) killPlane() error {
	if c.Plane == nil {
		return nil
	}
	return c.Plane.Kill()
}

// Residue deletes all that runs pods, in every namespace, and says what is then
// left of them on the node.
func (c *Cluster) Residue(ctx context.Context) ([]string, error) {
	if err := c.deleteAll(ctx); err != nil {
		return nil, err
	}
	// kubelet removes the sandboxes of pods that are gone once a minute.
	return invariant.Settle(90*time.Second, func() ([]string, error) {
		left, err := c.podsLeft(ctx)
		if err != nil {
			return nil, err
		}
		now, err := invariant.Collect(c.invariantConfig())
		if err != nil {
			return nil, err
		}
		left = append(left, invariant.Residue(c.baseline, now)...)
		ofKubelet, err := c.kubeletResidue()
		return append(left, ofKubelet...), err
	})
}

// deleteAll deletes all that runs pods.
func (c *Cluster) deleteAll(ctx context.Context) error {
	manifests, err := filepath.Glob(filepath.Join(c.Worker.Manifests, "*"))
	for _, m := range manifests {
		err = errors.Join(err, os.Remove(m))
	}
	if c.Plane == nil {
		return err
	}
	for _, args := range [][]string{
		{"delete", "deployments,daemonsets,statefulsets,replicasets,jobs,cronjobs,replicationcontrollers", "--all", "--all-namespaces", "--wait"},
		{"delete", "pods", "--all", "--all-namespaces", "--wait", "--timeout=2m"},
	} {
		_, runErr := c.Kubectl.Run(ctx, args...)
		err = errors.Join(err, runErr)
	}
	return err
}

// podsLeft names the pods there are.
func (c *Cluster) podsLeft(ctx context.Context) ([]string, error) {
	if c.Plane == nil {
		return nil, nil
	}
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var left []string
	for _, p := range pods.Items {
		left = append(left, "pod "+p.Namespace+"/"+p.Name)
	}
	return left, nil
}

// kubeletResidue finds the directories, mounts and cgroups of pods that kubelet
// has, which it keeps for as long as the runtime holds something of the pod.
func (c *Cluster) kubeletResidue() ([]string, error) {
	root := filepath.Join(c.Dir, c.Worker.Name(), "kubelet", "pods")
	left, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil {
		return nil, err
	}
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounted)) {
		if strings.Contains(line, " "+root+"/") {
			left = append(left, "mount "+strings.Fields(line)[4])
		}
	}
	roots, err := invariant.CgroupMounts()
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		for _, pattern := range []string{"kubepods/pod*", "kubepods/*/pod*"} {
			found, err := filepath.Glob(filepath.Join(r, c.Worker.Cgroup(), pattern))
			if err != nil {
				return nil, err
			}
			left = append(left, found...)
		}
	}
	return left, nil
}

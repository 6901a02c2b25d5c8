package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// stopsAtOnce is how many containers are stopped at a time: each may take all of
// its grace period.
const stopsAtOnce = 16

// playedFrom lists the containers that are here of the pods of a file, by the
// names of their pods. Those of a Deployment that has fewer replicas now are among
// them.
func playedFrom(ctx context.Context, n *client.Node, all *objects) (map[string][]*nodev1.Container, error) {
	answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return nil, err
	}
	names, workloads := map[string]bool{}, map[string]bool{}
	for i := range all.pods {
		names[all.pods[i].Name] = true
		if w := all.workloads[all.pods[i].Name]; w != "" {
			workloads[w] = true
		}
	}
	for _, w := range all.empty {
		workloads[w] = true
	}
	played := map[string][]*nodev1.Container{}
	for _, c := range answer.GetContainers() {
		pod := c.GetLabels()[labelPod]
		if !c.GetKubernetes() && pod != "" && (names[pod] || workloads[c.GetLabels()[labelWorkload]]) {
			played[pod] = append(played[pod], c)
		}
	}
	return played, nil
}

// absent refuses pods that are here already.
func absent(ctx context.Context, n *client.Node, all *objects) error {
	played, err := playedFrom(ctx, n, all)
	if err != nil {
		return err
	}
	for i := range all.pods {
		if name := all.pods[i].Name; len(played[name]) > 0 {
			return fmt.Errorf("pod %s is here already (container %s): --replace removes it first, and --down takes it away", name, played[name][0].GetName())
		}
	}
	return nil
}

// takeDown removes the containers that were made of a file, and the volumes of
// their emptyDirs, ConfigMaps and Secrets. It tries everything.
func takeDown(cmd *cobra.Command, n *client.Node, all *objects) error {
	ctx := cmd.Context()
	played, err := playedFrom(ctx, n, all)
	if err != nil {
		return err
	}
	grace := map[string]*int64{}
	var order []string
	for i := range all.pods {
		pod := &all.pods[i]
		grace[pod.Name] = pod.Spec.TerminationGracePeriodSeconds
		order = append(order, pod.Name)
	}
	var others []string // of a Deployment that has fewer replicas now
	for pod := range played {
		if _, known := grace[pod]; !known {
			others = append(others, pod)
		}
	}
	slices.Sort(others)
	order = append(order, others...)
	if err := stopAll(ctx, n, played, grace); err != nil {
		return err
	}
	for _, pod := range order {
		if err := removeAll(ctx, n, played[pod]); err != nil {
			return err
		}
		if err := removeVolumes(ctx, n, pod); err != nil {
			return err
		}
		if len(played[pod]) > 0 {
			cmd.Printf("pod %s removed\n", pod)
		}
	}
	return nil
}

// undo removes the pods that a file which cannot be played to its end made.
func undo(ctx context.Context, n *client.Node, some *objects) error {
	played, err := playedFrom(ctx, n, some)
	if err != nil {
		return err
	}
	var errs []error
	for i := range some.pods {
		name := some.pods[i].Name
		errs = append(errs, removeAll(ctx, n, played[name]), removeVolumes(ctx, n, name))
	}
	return errors.Join(errs...)
}

// stopAll stops containers at the same time, those of one pod as well, as kubelet
// does. Of a pod in the file its grace period counts, of others what they were
// made with.
func stopAll(ctx context.Context, n *client.Node, played map[string][]*nodev1.Container, grace map[string]*int64) error {
	stops, ctx := errgroup.WithContext(ctx)
	stops.SetLimit(stopsAtOnce)
	for pod, containers := range played {
		for _, c := range containers {
			stops.Go(func() error {
				_, err := n.Containers.Stop(ctx, &nodev1.StopRequest{Container: c.GetId(), Timeout: grace[pod]})
				if err != nil && !gone(err) {
					return fmt.Errorf("stop %s: %w", c.GetName(), err)
				}
				return nil
			})
		}
	}
	return stops.Wait()
}

func removeAll(ctx context.Context, n *client.Node, containers []*nodev1.Container) error {
	for _, c := range containers {
		_, err := n.Containers.Remove(ctx, &nodev1.RemoveRequest{Container: c.GetId(), Force: true, Volumes: true})
		if err != nil && !gone(err) {
			return fmt.Errorf("remove %s: %w", c.GetName(), err)
		}
	}
	return nil
}

// removeVolumes removes the volumes that were made for a pod. Those of claims are
// for keeping.
func removeVolumes(ctx context.Context, n *client.Node, pod string) error {
	answer, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
	if err != nil {
		return err
	}
	for _, v := range answer.GetVolumes() {
		if v.GetLabels()[labelPod] != pod {
			continue
		}
		if _, err := n.System.RemoveVolume(ctx, &nodev1.RemoveVolumeRequest{Name: v.GetName(), Force: true}); err != nil {
			return fmt.Errorf("remove volume %s: %w", v.GetName(), err)
		}
	}
	return nil
}

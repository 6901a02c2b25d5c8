package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

var errNoPods = errors.New("no Pod or Deployment in it")

// Pull pulls an image and shows how it goes.
type Pull func(cmd *cobra.Command, n *client.Node, image, platform string) error

// player is `play kube`.
type player struct {
	flags         *client.Flags
	pull          Pull
	down, replace bool
	noStart       bool
	configMaps    []string
}

// PlayCommand is `play`, with `kube` below it.
func PlayCommand(flags *client.Flags, pull Pull) *cobra.Command {
	p := &player{flags: flags, pull: pull}
	kube := &cobra.Command{
		Use:   "kube FILE",
		Short: "Run the Pods and Deployments of a manifest",
		Long: "Run the Pods and Deployments of a manifest on this machine, with the ConfigMaps, Secrets and\n" +
			"PersistentVolumeClaims (volumes of that name) in it. FILE may be - for standard input.",
		Example: "  cri-node play kube pod.yaml\n" +
			"  cri-node play kube --replace pod.yaml\n" +
			"  cri-node play kube --down pod.yaml",
		Args: cobra.ExactArgs(1),
		RunE: p.run,
	}
	f := kube.Flags()
	f.BoolVar(&p.down, "down", false, "stop and remove what the manifest made")
	f.BoolVar(&p.replace, "replace", false, "remove pods of the same names first")
	f.BoolVar(&p.noStart, "no-start", false, "make the containers and do not start them")
	f.StringArrayVar(&p.configMaps, "configmap", nil, "`file` with more ConfigMaps")
	play := &cobra.Command{
		Use: "play", Short: "Run manifests of Kubernetes without a cluster",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	play.AddCommand(kube)
	return play
}

func (p *player) run(cmd *cobra.Command, args []string) error {
	all, err := readFile(args[0], cmd.InOrStdin())
	if err != nil {
		return err
	}
	if len(all.pods) == 0 {
		return errNoPods
	}
	for _, path := range p.configMaps {
		more, err := readFile(path, cmd.InOrStdin())
		if err != nil {
			return err
		}
		maps.Copy(all.configMaps, more.configMaps)
	}
	for _, kind := range all.ignored {
		cmd.PrintErrf("%s means nothing on one machine and is left out\n", kind)
	}
	n, err := p.flags.Open()
	if err != nil {
		return err
	}
	defer n.Close() //nolint:errcheck // nothing is lost with it
	for i := range all.pods {
		if p.down || p.replace {
			if err := takeDown(cmd, n, &all.pods[i]); err != nil {
				return p.flags.Explain(err)
			}
		}
		if p.down {
			continue
		}
		if err := p.pod(cmd, n, all, &all.pods[i]); err != nil {
			return p.flags.Explain(err)
		}
	}
	return nil
}

// pod makes and starts a pod. One that cannot be made leaves nothing.
func (p *player) pod(cmd *cobra.Command, n *client.Node, all *objects, pod *corev1.Pod) (err error) {
	ctx := cmd.Context()
	ports := &containers.Ports{}
	defer ports.Close()
	steps, warnings, err := all.plan(pod, containers.ThisMachine(ports))
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		cmd.PrintErrf("pod %s: %s\n", pod.Name, warning)
	}
	for _, s := range steps {
		if err := p.image(cmd, n, s); err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
	}
	ports.Close()
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, id := range slices.Backward(made) {
			request := &nodev1.RemoveRequest{Container: id, Force: true, Volumes: true}
			if _, e := n.Containers.Remove(context.WithoutCancel(ctx), request); e != nil {
				err = errors.Join(err, fmt.Errorf("remove %s: %w", id, e))
			}
		}
	}()
	for _, s := range steps {
		if len(made) > 0 {
			s.request.Join = made[0]
			s.request.Pod = nil
		}
		answer, err := n.Containers.Create(ctx, s.request)
		if err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
		made = append(made, answer.GetId())
		if err := inject.Copy(ctx, n, answer.GetId(), s.files); err != nil {
			return fmt.Errorf("pod %s: container %s: copy its files: %w", pod.Name, s.container, err)
		}
		if !s.init {
			continue
		}
		if err := p.start(ctx, n, answer.GetId(), s); err != nil {
			return fmt.Errorf("pod %s: init container %s: %w", pod.Name, s.container, err)
		}
	}
	for i, s := range steps {
		if s.init {
			continue
		}
		if err := p.start(ctx, n, made[i], s); err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
	}
	cmd.Printf("pod %s\n", pod.Name)
	for i, s := range steps {
		cmd.Printf("  %s  %s\n", made[i][:12], s.request.GetName())
	}
	return nil
}

// start starts one container of a pod, and waits for it if it is an init container.
func (p *player) start(ctx context.Context, n *client.Node, id string, s step) error {
	if p.noStart {
		return nil
	}
	if _, err := n.Containers.Start(ctx, &nodev1.StartRequest{Container: id}); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	if !s.init {
		return nil
	}
	answer, err := n.Containers.Wait(ctx, &nodev1.WaitRequest{Container: id})
	if err != nil {
		return fmt.Errorf("wait for it: %w", err)
	}
	if answer.GetExitCode() != 0 {
		return fmt.Errorf("it exited with code %d, and what comes after it was not begun", answer.GetExitCode())
	}
	return nil
}

// image makes the image of a container present.
func (p *player) image(cmd *cobra.Command, n *client.Node, s step) error {
	image := s.request.GetContainer().GetImage().GetImage()
	_, err := n.Images.Inspect(cmd.Context(), &nodev1.InspectImageRequest{Image: image})
	switch {
	case err != nil && !gone(err):
		return err
	case err == nil && s.pull != corev1.PullAlways:
		return nil
	case err != nil && s.pull == corev1.PullNever:
		return fmt.Errorf("image %s is not present, and imagePullPolicy is Never", image)
	}
	return p.pull(cmd, n, image, "")
}

func gone(err error) bool { return status.Code(err) == codes.NotFound }

// takeDown removes the containers that were made of a pod, the first one last, and
// the volumes of its emptyDirs.
func takeDown(cmd *cobra.Command, n *client.Node, pod *corev1.Pod) error {
	ctx := cmd.Context()
	answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return err
	}
	var mine []*nodev1.Container
	for _, c := range answer.GetContainers() {
		if !c.GetKubernetes() && c.GetLabels()[labelPod] == pod.Name {
			mine = append(mine, c)
		}
	}
	slices.SortFunc(mine, func(a, b *nodev1.Container) int { return cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()) })
	for _, c := range mine {
		if _, err := n.Containers.Stop(ctx, &nodev1.StopRequest{Container: c.GetId()}); err != nil && !gone(err) {
			return fmt.Errorf("stop %s: %w", c.GetName(), err)
		}
	}
	for _, c := range mine {
		if _, err := n.Containers.Remove(ctx, &nodev1.RemoveRequest{Container: c.GetId(), Force: true, Volumes: true}); err != nil && !gone(err) {
			return fmt.Errorf("remove %s: %w", c.GetName(), err)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir == nil {
			continue
		}
		if _, err := n.System.RemoveVolume(ctx, &nodev1.RemoveVolumeRequest{Name: emptyDirName(pod, v.Name)}); err != nil && !gone(err) {
			return fmt.Errorf("remove volume of %s: %w", v.Name, err)
		}
	}
	if len(mine) > 0 {
		cmd.Printf("pod %s removed\n", pod.Name)
	}
	return nil
}

// inspect reads docker's form of a container.
func inspect(ctx context.Context, n *client.Node, container string) (*inspection, error) {
	answer, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: container})
	if err != nil {
		return nil, err
	}
	var i inspection
	if err := json.Unmarshal(answer.GetJson(), &i); err != nil {
		return nil, fmt.Errorf("read the description of %s: %w", container, err)
	}
	return &i, nil
}

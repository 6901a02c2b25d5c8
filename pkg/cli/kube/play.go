package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// undoLimit bounds what is done after a failure.
const undoLimit = 2 * time.Minute

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
	if len(all.pods)+len(all.empty) == 0 {
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
	if p.down || p.replace {
		if err := takeDown(cmd, n, all); err != nil {
			return p.flags.Explain(err)
		}
	}
	if p.down {
		return nil
	}
	if err := absent(cmd.Context(), n, all); err != nil {
		return p.flags.Explain(err)
	}
	if err := p.playAll(cmd, n, all); err != nil {
		return p.flags.Explain(err)
	}
	return nil
}

// playAll makes all pods of a file, or none of them.
func (p *player) playAll(cmd *cobra.Command, n *client.Node, all *objects) error {
	plans := make([]*plan, len(all.pods))
	for i := range all.pods {
		ports := &containers.Ports{}
		var err error
		plans[i], err = all.plan(&all.pods[i], containers.ThisMachine(ports))
		ports.Close()
		if err != nil {
			return err
		}
	}
	for i := range all.pods {
		err := p.pod(cmd, n, &all.pods[i], plans[i])
		if err == nil {
			continue
		}
		some := &objects{pods: all.pods[:i]}
		clean, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), undoLimit)
		defer cancel()
		return errors.Join(err, undo(clean, n, some))
	}
	return nil
}

// pod makes and starts a pod. One that cannot be made leaves nothing.
func (p *player) pod(cmd *cobra.Command, n *client.Node, pod *corev1.Pod, plan *plan) (err error) {
	ctx := cmd.Context()
	for _, warning := range plan.warnings {
		cmd.PrintErrf("pod %s: %s\n", pod.Name, warning)
	}
	for _, s := range plan.steps {
		if err := p.image(cmd, n, s); err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
	}
	var made []string
	defer func() {
		if err == nil {
			return
		}
		clean := context.WithoutCancel(ctx)
		for _, id := range slices.Backward(made) {
			request := &nodev1.RemoveRequest{Container: id, Force: true, Volumes: true}
			if _, e := n.Containers.Remove(clean, request); e != nil {
				err = errors.Join(err, fmt.Errorf("remove %s: %w", id, e))
			}
		}
		err = errors.Join(err, removeVolumes(clean, n, pod.Name))
	}()
	if made, err = p.make(ctx, n, pod, plan); err != nil {
		return err
	}
	for i, s := range plan.steps {
		if s.init || s.sidecar {
			continue
		}
		if err := p.start(ctx, n, made[i], s); err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
	}
	cmd.Printf("pod %s\n", pod.Name)
	for i, s := range plan.steps {
		cmd.Printf("  %s  %s\n", made[i][:12], s.request.GetName())
	}
	return nil
}

// make makes the volumes and the containers of a pod, and runs its init containers.
// It returns what it has made also where it fails.
func (p *player) make(ctx context.Context, n *client.Node, pod *corev1.Pod, plan *plan) (made []string, err error) {
	if err := removeVolumes(ctx, n, pod.Name); err != nil { // of a pod that is gone
		return nil, err
	}
	for _, v := range plan.volumes {
		if _, err := n.System.CreateVolume(ctx, v); err != nil {
			return nil, fmt.Errorf("pod %s: volume %s: %w", pod.Name, v.GetName(), err)
		}
	}
	for _, s := range plan.steps {
		if len(made) > 0 {
			s.request.Join = made[0]
			s.request.Pod = nil
		}
		answer, err := n.Containers.Create(ctx, s.request)
		if err != nil {
			return made, fmt.Errorf("pod %s: container %s: %w", pod.Name, s.container, err)
		}
		made = append(made, answer.GetId())
		if err := inject.Copy(ctx, n, answer.GetId(), s.files); err != nil {
			return made, fmt.Errorf("pod %s: container %s: copy its files: %w", pod.Name, s.container, err)
		}
		if s.init || s.sidecar {
			if err := p.start(ctx, n, answer.GetId(), s); err != nil {
				return made, fmt.Errorf("pod %s: init container %s: %w", pod.Name, s.container, err)
			}
		}
	}
	return made, nil
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

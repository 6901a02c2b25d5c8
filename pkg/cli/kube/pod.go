package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Labels of the containers that were made of a Pod.
const (
	labelPod       = "io.cri-node.kube.pod"
	labelContainer = "io.cri-node.kube.container"
	// labelWorkload is what a pod is a replica of, such as Deployment/web.
	labelWorkload = "io.cri-node.kube.workload"
)

// step is one container of a pod, in the order they are made.
type step struct {
	container string
	request   *nodev1.CreateRequest
	files     []inject.File
	// init: it has to end well before the next one is made. Others start when all
	// are made.
	init bool
	// sidecar: it is started before what comes after it.
	sidecar bool
	pull    corev1.PullPolicy
}

// plan is what the daemon is asked for, for one pod.
type plan struct {
	volumes []*nodev1.CreateVolumeRequest
	// The first request makes the pod; the caller has the others join it.
	steps []step
	// warnings say what nobody does here.
	warnings []string
}

// plan turns a pod into what the daemon is asked for.
func (all *objects) plan(pod *corev1.Pod, m containers.Machine) (*plan, error) {
	if err := supported(pod); err != nil {
		return nil, fmt.Errorf("pod %s: spec.%w", pod.Name, err)
	}
	p := &plan{warnings: leftOut(pod)}
	var err error
	if p.volumes, err = all.volumes(pod); err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	// The first container has the pod, which ends with the last that is not over:
	// it is made before the init containers, and started after them.
	if err := all.planContainer(p, pod, &pod.Spec.Containers[0], m, false); err != nil {
		return nil, fmt.Errorf("pod %s: container %s: %w", pod.Name, pod.Spec.Containers[0].Name, err)
	}
	for i := range pod.Spec.InitContainers {
		if err := all.planContainer(p, pod, &pod.Spec.InitContainers[i], m, true); err != nil {
			return nil, fmt.Errorf("pod %s: init container %s: %w", pod.Name, pod.Spec.InitContainers[i].Name, err)
		}
	}
	for i := range pod.Spec.Containers[1:] {
		c := &pod.Spec.Containers[1+i]
		if err := all.planContainer(p, pod, c, m, false); err != nil {
			return nil, fmt.Errorf("pod %s: container %s: %w", pod.Name, c.Name, err)
		}
	}
	publish(pod, p.steps[0].request)
	return p, nil
}

// planContainer adds a container.
func (all *objects) planContainer(p *plan, pod *corev1.Pod, c *corev1.Container, m containers.Machine, init bool) error {
	o, why, err := all.options(pod, c)
	if err != nil {
		return err
	}
	for _, w := range why {
		p.warnings = append(p.warnings, fmt.Sprintf("container %s: %s", c.Name, w))
	}
	if o.Restart, err = restartPolicy(pod.Spec.RestartPolicy); err != nil {
		return err
	}
	beside := init && sidecar(c)
	switch {
	case beside:
		o.Restart, init = "always", false
	case init:
		o.Restart = "no"
	}
	env, values, err := all.environment(pod, c)
	if err != nil {
		return err
	}
	o.Env = env
	r, err := o.Request(m, c.Image, expandAll(c.Args, values))
	if err != nil {
		return err
	}
	if probe := c.LivenessProbe; probe != nil && probe.Exec != nil {
		r.Healthcheck.Test = append([]string{"CMD"}, expandAll(probe.Exec.Command, values)...) // without a shell
	}
	r.Container.Command = expandAll(c.Command, values)
	r.Container.Linux.SecurityContext.NamespaceOptions = nil // the pod's
	if len(p.steps) == 0 {
		all.shape(pod, r)
	}
	files, err := all.mounts(pod, c, r)
	if err != nil {
		return err
	}
	p.steps = append(p.steps, step{container: c.Name, request: r, files: files, init: init, sidecar: beside, pull: c.ImagePullPolicy})
	return nil
}

// sidecar init containers run beside the others, and are waited for by nobody.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// supported refuses what would silently not be had.
func supported(pod *corev1.Pod) error {
	if len(pod.Spec.EphemeralContainers) > 0 {
		return fmt.Errorf("ephemeralContainers are added to a pod that runs: \"cri-node exec\" is what there is here")
	}
	if pod.Spec.RuntimeClassName != nil && strings.ContainsAny(*pod.Spec.RuntimeClassName, "/ ") {
		return fmt.Errorf("runtimeClassName %q is no handler", *pod.Spec.RuntimeClassName)
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return fmt.Errorf("resourceClaims are a cluster's")
	}
	return nil
}

// leftOut says what of a pod nobody does here.
func leftOut(pod *corev1.Pod) []string {
	var all []string
	if pod.Spec.ActiveDeadlineSeconds != nil {
		all = append(all, "activeDeadlineSeconds is kubelet's")
	}
	if len(pod.Spec.ImagePullSecrets) > 0 {
		all = append(all, "imagePullSecrets are left out: \"cri-node login\" is for this machine")
	}
	return all
}

// options are a container in the words of `run`.
func (all *objects) options(pod *corev1.Pod, c *corev1.Container) (o *containers.Options, left []string, err error) {
	o = &containers.Options{
		Name: pod.Name + "-" + c.Name, Workdir: c.WorkingDir, Interactive: c.Stdin, TTY: c.TTY, Detach: true,
	}
	for key, value := range pod.Labels {
		o.Labels = append(o.Labels, key+"="+value)
	}
	o.Labels = append(o.Labels, labelPod+"="+pod.Name, labelContainer+"="+c.Name)
	if workload := all.workloads[pod.Name]; workload != "" {
		o.Labels = append(o.Labels, labelWorkload+"="+workload)
	}
	slices.Sort(o.Labels)
	if pod.Spec.RuntimeClassName != nil {
		o.Runtime = *pod.Spec.RuntimeClassName
	}
	o.StopTimeout = pod.Spec.TerminationGracePeriodSeconds
	secure(pod.Spec.SecurityContext, c.SecurityContext, o)
	limit(c.Resources, o)
	left, err = check(c, o)
	if err != nil {
		return nil, nil, err
	}
	if c.Lifecycle != nil {
		left = append(left, "lifecycle hooks are kubelet's")
	}
	return o, left, nil
}

// shape gives the first request what makes the pod.
func (all *objects) shape(pod *corev1.Pod, r *nodev1.CreateRequest) {
	spec := pod.Spec
	r.Pod.Hostname = pod.Name
	if spec.Hostname != "" {
		r.Pod.Hostname = spec.Hostname
	}
	if len(r.Pod.Hostname) > 63 {
		r.Pod.Hostname = r.Pod.Hostname[:63]
	}
	r.Pod.Labels = maps.Clone(pod.Labels)
	r.Pod.Annotations = maps.Clone(pod.Annotations)
	for _, alias := range spec.HostAliases {
		for _, name := range alias.Hostnames {
			r.ExtraHosts = append(r.ExtraHosts, name+":"+alias.IP)
		}
	}
	if d := spec.DNSConfig; d != nil {
		r.Pod.DnsConfig = &runtimeapi.DNSConfig{Servers: d.Nameservers, Searches: d.Searches}
		for _, option := range d.Options {
			text := option.Name
			if option.Value != nil {
				text += ":" + *option.Value
			}
			r.Pod.DnsConfig.Options = append(r.Pod.DnsConfig.Options, text)
		}
	}
	options := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if spec.HostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	if spec.HostPID {
		options.Pid = runtimeapi.NamespaceMode_NODE
	}
	if spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		options.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
	}
	r.Pod.Linux.SecurityContext.NamespaceOptions = options
	if !spec.HostNetwork {
		r.Networks = []*nodev1.NetworkMembership{{Network: "kube", Aliases: all.aliases(pod)}}
	}
}

// aliases are the names that others find a pod by: its own, and those of the
// Services that select it.
func (all *objects) aliases(pod *corev1.Pod) []string {
	names := []string{pod.Name}
	for _, s := range all.services {
		selected := len(s.Spec.Selector) > 0
		for key, value := range s.Spec.Selector {
			selected = selected && pod.Labels[key] == value
		}
		if selected {
			names = append(names, s.Name)
		}
	}
	return names
}

// publish adds the ports of all containers to the pod.
func publish(pod *corev1.Pod, r *nodev1.CreateRequest) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			r.Pod.PortMappings = append(r.Pod.PortMappings, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(runtimeapi.Protocol_value[string(p.Protocol)]), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

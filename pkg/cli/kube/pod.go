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
)

// step is one container of a pod, in the order they are made.
type step struct {
	container string
	request   *nodev1.CreateRequest
	files     []inject.File
	// init: it has to end well before the next one is made. Others start when all
	// are made.
	init bool
	pull corev1.PullPolicy
}

// plan turns a pod into what the daemon is asked for. The first request makes the
// pod; the caller has the others join it. warnings say what nobody does here.
func (all *objects) plan(pod *corev1.Pod, m containers.Machine) (steps []step, warnings []string, err error) {
	policy, err := restartPolicy(pod.Spec.RestartPolicy)
	if err != nil {
		return nil, nil, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	if err := supported(pod); err != nil {
		return nil, nil, fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	add := func(c corev1.Container, init bool) error {
		o, why, err := all.options(pod, &c)
		if err != nil {
			return err
		}
		if why != "" {
			warnings = append(warnings, fmt.Sprintf("container %s: %s", c.Name, why))
		}
		o.Restart = policy
		if init {
			o.Restart = "no"
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar
				o.Restart, init = "always", false
			}
		}
		r, err := o.Request(m, c.Image, c.Args)
		if err != nil {
			return err
		}
		r.Container.Command = c.Command
		if len(steps) == 0 {
			shape(pod, r)
		}
		if pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace {
			sharePID(r)
		}
		files, err := all.mounts(pod, &c, r)
		if err != nil {
			return err
		}
		steps = append(steps, step{container: c.Name, request: r, files: files, init: init, pull: c.ImagePullPolicy})
		return nil
	}
	// The first container has the pod, which ends with the last that is not over:
	// it is made before the init containers, and started after them.
	if err := add(pod.Spec.Containers[0], false); err != nil {
		return nil, nil, fmt.Errorf("pod %s: container %s: %w", pod.Name, pod.Spec.Containers[0].Name, err)
	}
	for _, c := range pod.Spec.InitContainers {
		if err := add(c, true); err != nil {
			return nil, nil, fmt.Errorf("pod %s: init container %s: %w", pod.Name, c.Name, err)
		}
	}
	for _, c := range pod.Spec.Containers[1:] {
		if err := add(c, false); err != nil {
			return nil, nil, fmt.Errorf("pod %s: container %s: %w", pod.Name, c.Name, err)
		}
	}
	return steps, warnings, publish(pod, steps[0].request)
}

// supported refuses what would silently not be had.
func supported(pod *corev1.Pod) error {
	if pod.Spec.RuntimeClassName != nil && strings.ContainsAny(*pod.Spec.RuntimeClassName, "/ ") {
		return fmt.Errorf("runtimeClassName %q is no handler", *pod.Spec.RuntimeClassName)
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return fmt.Errorf("resourceClaims are a cluster's")
	}
	return nil
}

// options are a container in the words of `run`.
func (all *objects) options(pod *corev1.Pod, c *corev1.Container) (o *containers.Options, left string, err error) {
	o = &containers.Options{
		Name: pod.Name + "-" + c.Name, Workdir: c.WorkingDir, Interactive: c.Stdin, TTY: c.TTY, Detach: true,
	}
	for key, value := range pod.Labels {
		o.Labels = append(o.Labels, key+"="+value)
	}
	o.Labels = append(o.Labels, labelPod+"="+pod.Name, labelContainer+"="+c.Name)
	slices.Sort(o.Labels)
	if o.Env, err = all.environment(pod, c); err != nil {
		return nil, "", err
	}
	if pod.Spec.RuntimeClassName != nil {
		o.Runtime = *pod.Spec.RuntimeClassName
	}
	o.StopTimeout = pod.Spec.TerminationGracePeriodSeconds
	secure(pod.Spec.SecurityContext, c.SecurityContext, o)
	limit(c.Resources, o)
	left = check(c, o)
	if c.Lifecycle != nil {
		left = "lifecycle hooks are kubelet's"
	}
	return o, left, nil
}

// shape gives the first request what makes the pod.
func shape(pod *corev1.Pod, r *nodev1.CreateRequest) {
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
	r.Pod.Linux.SecurityContext.NamespaceOptions = options
	r.Networks = []*nodev1.NetworkMembership{{Network: "kube", Aliases: []string{pod.Name}}}
}

// sharePID lets the containers of a pod see one another's processes.
func sharePID(r *nodev1.CreateRequest) {
	shared := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}
	if options := r.GetPod().GetLinux().GetSecurityContext().GetNamespaceOptions(); options != nil {
		options.Pid = runtimeapi.NamespaceMode_POD
		shared = options
	}
	r.Container.Linux.SecurityContext.NamespaceOptions = shared
}

// publish adds the host ports of all containers to the pod.
func publish(pod *corev1.Pod, r *nodev1.CreateRequest) error {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			protocol, ok := runtimeapi.Protocol_value[strings.ToUpper(string(p.Protocol))]
			if !ok && p.Protocol != "" {
				return fmt.Errorf("pod %s: container %s: protocol %q is unknown", pod.Name, c.Name, p.Protocol)
			}
			r.Pod.PortMappings = append(r.Pod.PortMappings, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	return nil
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// shellJoin makes one command line of arguments.
func shellJoin(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

package kube

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// podOf is a Pod of the containers of one group.
func podOf(group group) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: group.name, Labels: map[string]string{"app": group.name}},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever},
	}
	for _, i := range group.containers {
		describePod(pod, i)
		pod.Spec.Containers = append(pod.Spec.Containers, containerOf(pod, i))
	}
	return pod
}

// describePod adds what of a container is its pod's in Kubernetes.
func describePod(pod *corev1.Pod, i *inspection) {
	pod.Spec.HostNetwork = pod.Spec.HostNetwork || i.HostConfig.NetworkMode == "host"
	pod.Spec.HostPID = pod.Spec.HostPID || i.HostConfig.PidMode == "host"
	pod.Spec.HostIPC = pod.Spec.HostIPC || i.HostConfig.IpcMode == "host"
	switch i.HostConfig.RestartPolicy.Name {
	case "always", "unless-stopped":
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	case "on-failure":
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	}
	// One that was made up says nothing.
	if name := i.Config.Hostname; !strings.HasPrefix(i.ID, name) && name != pod.Name && len(validation.IsDNS1123Label(name)) == 0 {
		pod.Spec.Hostname = name
	}
	if t := i.Config.StopTimeout; t != nil && (pod.Spec.TerminationGracePeriodSeconds == nil || *pod.Spec.TerminationGracePeriodSeconds < *t) {
		pod.Spec.TerminationGracePeriodSeconds = t
	}
	for _, group := range i.HostConfig.GroupAdd {
		id, err := strconv.ParseInt(group, 10, 64)
		if err != nil {
			continue // a name, which is the image's
		}
		if pod.Spec.SecurityContext == nil {
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
		}
		if groups := &pod.Spec.SecurityContext.SupplementalGroups; !slices.Contains(*groups, id) {
			*groups = append(*groups, id)
		}
	}
	for _, host := range i.HostConfig.ExtraHosts {
		name, ip, _ := strings.Cut(host, ":")
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err == nil { // host-gateway is the machine's
			pod.Spec.HostAliases = append(pod.Spec.HostAliases, corev1.HostAlias{IP: strings.Trim(ip, "[]"), Hostnames: []string{name}})
		}
	}
}

// containerOf is one container, and adds its volumes to the pod.
func containerOf(pod *corev1.Pod, i *inspection) corev1.Container {
	name := cmp.Or(i.Config.Labels[labelContainer], i.Config.Labels[composeService], i.Name)
	c := corev1.Container{
		Name: objectName(name), Image: i.Config.Image, Command: literal(i.Config.Entrypoint), Args: literal(i.Config.Cmd),
		WorkingDir: i.Config.WorkingDir, TTY: i.Config.Tty, Stdin: i.Config.OpenStdin,
	}
	for _, e := range i.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		if name != "PATH" && name != "HOSTNAME" && name != "TERM" && name != "HOME" {
			c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: literal([]string{value})[0]})
		}
	}
	c.Ports = portsOf(i)
	c.SecurityContext = securityOf(i)
	c.LivenessProbe = probeOf(i.Config.Healthcheck)
	if i.HostConfig.Memory > 0 || i.HostConfig.NanoCpus > 0 {
		c.Resources.Limits = corev1.ResourceList{}
		if i.HostConfig.Memory > 0 {
			c.Resources.Limits[corev1.ResourceMemory] = *resource.NewQuantity(i.HostConfig.Memory, resource.BinarySI)
		}
		if i.HostConfig.NanoCpus > 0 {
			c.Resources.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(i.HostConfig.NanoCpus/1e6, resource.DecimalSI)
		}
	}
	for at, m := range i.Mounts {
		v := corev1.Volume{Name: objectName(fmt.Sprintf("%s-%d", c.Name, at))}
		switch m.Type {
		case "bind":
			v.HostPath = &corev1.HostPathVolumeSource{Path: m.Source}
		case "volume":
			v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: objectName(m.Name)}
		case "tmpfs":
			v.EmptyDir = &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
		default:
			continue
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, v)
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: path.Clean(m.Destination), ReadOnly: m.Type != "tmpfs" && !m.RW})
	}
	return c
}

// literal words mean themselves where Kubernetes would fill in $(NAME).
func literal(words []string) []string {
	var all []string
	for _, w := range words {
		all = append(all, strings.ReplaceAll(w, "$(", "$$("))
	}
	return all
}

// probeOf is a health check in the words of a liveness probe.
func probeOf(h *healthcheck) *corev1.Probe {
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	command := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		command = []string{"/bin/sh", "-c", h.Test[1]}
	}
	seconds := func(nanoseconds int64) int32 {
		return int32(min((nanoseconds+int64(time.Second)-1)/int64(time.Second), math.MaxInt32))
	}
	// What is left out is something else to docker than to Kubernetes.
	const usual = int64(30 * time.Second)
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: literal(command)}},
		PeriodSeconds: seconds(cmp.Or(h.Interval, usual)), TimeoutSeconds: seconds(cmp.Or(h.Timeout, usual)),
		InitialDelaySeconds: seconds(h.StartPeriod), FailureThreshold: cmp.Or(h.Retries, 3),
	}
}

func portsOf(i *inspection) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, key := range slices.Sorted(maps.Keys(i.HostConfig.PortBindings)) {
		number, protocol, _ := strings.Cut(key, "/")
		port, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			continue
		}
		p := corev1.ContainerPort{ContainerPort: int32(port), Protocol: corev1.Protocol(strings.ToUpper(cmp.Or(protocol, "tcp")))}
		for _, binding := range i.HostConfig.PortBindings[key] {
			if host, err := strconv.ParseInt(binding.HostPort, 10, 32); err == nil {
				p.HostPort, p.HostIP = int32(host), binding.HostIP
			}
		}
		ports = append(ports, p)
	}
	return ports
}

func securityOf(i *inspection) *corev1.SecurityContext {
	s := &corev1.SecurityContext{}
	user, group, _ := strings.Cut(i.Config.User, ":")
	if id, err := strconv.ParseInt(user, 10, 64); err == nil {
		s.RunAsUser = &id
	}
	if id, err := strconv.ParseInt(group, 10, 64); err == nil {
		s.RunAsGroup = &id
	}
	yes := true
	if i.HostConfig.Privileged {
		s.Privileged = &yes
	}
	if i.HostConfig.ReadonlyRootfs {
		s.ReadOnlyRootFilesystem = &yes
	}
	if len(i.HostConfig.CapAdd)+len(i.HostConfig.CapDrop) > 0 {
		s.Capabilities = &corev1.Capabilities{}
		for _, name := range i.HostConfig.CapAdd {
			s.Capabilities.Add = append(s.Capabilities.Add, corev1.Capability(strings.TrimPrefix(name, "CAP_")))
		}
		for _, name := range i.HostConfig.CapDrop {
			s.Capabilities.Drop = append(s.Capabilities.Drop, corev1.Capability(strings.TrimPrefix(name, "CAP_")))
		}
	}
	if *s == (corev1.SecurityContext{}) {
		return nil
	}
	return s
}

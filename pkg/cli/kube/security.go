package kube

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-node/cri-node/pkg/cli/containers"
)

// secure fills in what the security contexts of a pod and its container say.
func secure(pod *corev1.PodSecurityContext, c *corev1.SecurityContext, o *containers.Options) {
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if c == nil {
		c = &corev1.SecurityContext{}
	}
	user, group := first(c.RunAsUser, pod.RunAsUser), first(c.RunAsGroup, pod.RunAsGroup)
	if user != nil {
		o.User = strconv.FormatInt(*user, 10)
	}
	if group != nil {
		if user == nil {
			o.User = "0"
		}
		o.User += ":" + strconv.FormatInt(*group, 10)
	}
	for _, g := range pod.SupplementalGroups {
		o.GroupAdd = append(o.GroupAdd, strconv.FormatInt(g, 10))
	}
	if pod.FSGroup != nil {
		o.GroupAdd = append(o.GroupAdd, strconv.FormatInt(*pod.FSGroup, 10))
	}
	for _, s := range pod.Sysctls {
		o.Sysctls = append(o.Sysctls, s.Name+"="+s.Value)
	}
	o.Privileged = optional(c.Privileged)
	o.ReadOnly = optional(c.ReadOnlyRootFilesystem)
	if c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation {
		o.SecurityOpt = append(o.SecurityOpt, "no-new-privileges")
	}
	if c.Capabilities != nil {
		for _, name := range c.Capabilities.Add {
			o.CapAdd = append(o.CapAdd, string(name))
		}
		for _, name := range c.Capabilities.Drop {
			o.CapDrop = append(o.CapDrop, string(name))
		}
	}
	for _, profile := range []*corev1.SeccompProfile{c.SeccompProfile, pod.SeccompProfile} {
		if profile != nil {
			switch profile.Type {
			case corev1.SeccompProfileTypeUnconfined:
				o.SecurityOpt = append(o.SecurityOpt, "seccomp=unconfined")
			case corev1.SeccompProfileTypeLocalhost:
				if profile.LocalhostProfile != nil {
					o.SecurityOpt = append(o.SecurityOpt, "seccomp="+*profile.LocalhostProfile)
				}
			case corev1.SeccompProfileTypeRuntimeDefault: // as always
			}
			break
		}
	}
}

func first[T any](all ...*T) *T {
	for _, one := range all {
		if one != nil {
			return one
		}
	}
	return nil
}

// limit fills in resources.
func limit(r corev1.ResourceRequirements, o *containers.Options) {
	if cpu, ok := r.Limits[corev1.ResourceCPU]; ok {
		o.CPUs = strconv.FormatFloat(cpu.AsApproximateFloat64(), 'f', -1, 64)
	}
	if cpu, ok := r.Requests[corev1.ResourceCPU]; ok {
		o.CPUShares = max(2, cpu.MilliValue()*1024/1000)
	}
	if memory, ok := r.Limits[corev1.ResourceMemory]; ok {
		o.Memory = strconv.FormatInt(memory.Value(), 10)
	}
	// A request of memory is for the scheduler of a cluster.
}

// check fills in a health check for a liveness probe that runs a command, and says
// what is left out.
func check(c *corev1.Container, o *containers.Options) (left []string, err error) {
	if c.ReadinessProbe != nil || c.StartupProbe != nil {
		left = append(left, "readiness and startup probes are kubelet's")
	}
	probe := c.LivenessProbe
	if probe == nil {
		return left, nil
	}
	if probe.Exec == nil {
		return append(left, "only a liveness probe that runs a command can be a health check"), nil
	}
	if len(probe.Exec.Command) == 0 {
		return nil, errors.New("livenessProbe.exec.command is empty")
	}
	for field, n := range map[string]int32{
		"periodSeconds": probe.PeriodSeconds, "timeoutSeconds": probe.TimeoutSeconds,
		"initialDelaySeconds": probe.InitialDelaySeconds, "failureThreshold": probe.FailureThreshold,
	} {
		if n < 0 {
			return nil, fmt.Errorf("livenessProbe.%s: %d is less than 0", field, n)
		}
	}
	o.Health.Command = strings.Join(probe.Exec.Command, " ") // see planContainer
	// What is left out is what Kubernetes takes it for.
	o.Health.Interval = seconds(cmp.Or(probe.PeriodSeconds, 10))
	o.Health.Timeout = seconds(cmp.Or(probe.TimeoutSeconds, 1))
	o.Health.StartPeriod = seconds(probe.InitialDelaySeconds)
	o.Health.Retries = uint32(cmp.Or(probe.FailureThreshold, 3))
	return left, nil
}

// restartPolicy is the daemon's word for a pod's.
func restartPolicy(p corev1.RestartPolicy) (string, error) {
	switch p {
	case corev1.RestartPolicyAlways, "":
		return "always", nil
	case corev1.RestartPolicyOnFailure:
		return "on-failure", nil
	case corev1.RestartPolicyNever:
		return "no", nil
	}
	return "", fmt.Errorf("restartPolicy: %q is none of Always, OnFailure and Never", p)
}

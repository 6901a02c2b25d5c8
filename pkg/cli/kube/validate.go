package kube

import (
	"errors"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// validate checks what can be checked of a pod alone, and names the field that is
// wrong.
func validate(pod *corev1.Pod) error {
	if pod.Name == "" {
		return errors.New("metadata.name is missing")
	}
	if problems := validation.IsDNS1123Subdomain(pod.Name); len(problems) > 0 {
		return fmt.Errorf("metadata.name: %q: %s", pod.Name, problems[0])
	}
	if len(pod.Spec.Containers) == 0 {
		return errors.New("spec.containers is empty")
	}
	if _, err := restartPolicy(pod.Spec.RestartPolicy); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	if n := pod.Spec.TerminationGracePeriodSeconds; n != nil && *n < 0 {
		return fmt.Errorf("spec.terminationGracePeriodSeconds: %d is less than 0", *n)
	}
	volumes := map[string]bool{}
	for i, v := range pod.Spec.Volumes {
		if err := label(v.Name, volumes); err != nil {
			return fmt.Errorf("spec.volumes[%d].name%w", i, err)
		}
		if claim := v.PersistentVolumeClaim; claim != nil {
			if problems := validation.IsDNS1123Subdomain(claim.ClaimName); len(problems) > 0 {
				return fmt.Errorf("spec.volumes[%d].persistentVolumeClaim.claimName: %q: %s", i, claim.ClaimName, problems[0])
			}
		}
	}
	names, ports := map[string]bool{}, map[string]bool{}
	for _, list := range []struct {
		field      string
		containers []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range list.containers {
			field := fmt.Sprintf("spec.%s[%d]", list.field, i)
			if err := validateContainer(&list.containers[i], names, volumes, ports); err != nil {
				return fmt.Errorf("%s.%w", field, err)
			}
		}
	}
	return nil
}

// label checks a name that is to be the only one of its kind.
func label(name string, taken map[string]bool) error {
	if name == "" {
		return errors.New(" is missing")
	}
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return fmt.Errorf(": %q: %s", name, problems[0])
	}
	if taken[name] {
		return fmt.Errorf(": %q is there twice", name)
	}
	taken[name] = true
	return nil
}

func validateContainer(c *corev1.Container, names, volumes, ports map[string]bool) error {
	if err := label(c.Name, names); err != nil {
		return fmt.Errorf("name%w", err)
	}
	switch c.ImagePullPolicy {
	case "", corev1.PullAlways, corev1.PullNever, corev1.PullIfNotPresent:
	default:
		return fmt.Errorf("imagePullPolicy: %q is none of Always, IfNotPresent and Never", c.ImagePullPolicy)
	}
	if c.Image == "" {
		return errors.New("image is missing")
	}
	for i, e := range c.Env {
		if problems := validation.IsEnvVarName(e.Name); len(problems) > 0 {
			return fmt.Errorf("env[%d].name: %q: %s", i, e.Name, problems[0])
		}
	}
	for i, p := range c.Ports {
		if err := validatePort(p, ports); err != nil {
			return fmt.Errorf("ports[%d].%w", i, err)
		}
	}
	at := map[string]bool{}
	for i, m := range c.VolumeMounts {
		field := fmt.Sprintf("volumeMounts[%d]", i)
		switch {
		case !volumes[m.Name]:
			return fmt.Errorf("%s.name: the pod has no volume %s", field, m.Name)
		case !path.IsAbs(m.MountPath) || path.Clean(m.MountPath) == "/":
			return fmt.Errorf("%s.mountPath: %q is no absolute path below /", field, m.MountPath)
		case at[path.Clean(m.MountPath)]:
			return fmt.Errorf("%s.mountPath: something is mounted at %s already", field, m.MountPath)
		case path.IsAbs(m.SubPath) || strings.Contains("/"+m.SubPath+"/", "/../"):
			return fmt.Errorf("%s.subPath: %q leads out of the volume", field, m.SubPath)
		case m.SubPathExpr != "":
			return fmt.Errorf("%s.subPathExpr: is not known here: subPath is", field)
		}
		at[path.Clean(m.MountPath)] = true
	}
	if len(c.VolumeDevices) > 0 {
		return errors.New("volumeDevices: block devices are a cluster's")
	}
	return nil
}

// validatePort checks a port, and that no other of the pod has the same of the
// machine.
func validatePort(p corev1.ContainerPort, taken map[string]bool) error {
	if problems := validation.IsValidPortNum(int(p.ContainerPort)); len(problems) > 0 {
		return fmt.Errorf("containerPort: %d: %s", p.ContainerPort, problems[0])
	}
	switch p.Protocol {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		return fmt.Errorf("protocol: %q is none of TCP, UDP and SCTP", p.Protocol)
	}
	if p.HostPort == 0 {
		return nil
	}
	if problems := validation.IsValidPortNum(int(p.HostPort)); len(problems) > 0 {
		return fmt.Errorf("hostPort: %d: %s", p.HostPort, problems[0])
	}
	key := fmt.Sprintf("%s:%d/%s", p.HostIP, p.HostPort, p.Protocol)
	if taken[key] {
		return fmt.Errorf("hostPort: %d is there twice", p.HostPort)
	}
	taken[key] = true
	return nil
}

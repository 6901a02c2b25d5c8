package cri

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/cri/apparmor"
	"github.com/cri-node/cri-node/pkg/cri/selinux"
	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// Confinement is what the kernel's security modules add to namespaces. The zero
// Confinement is a machine without any.
type Confinement struct {
	AppArmor *apparmor.Host
	// AppArmorProfile confines containers that ask for no other; "" where it
	// could not be loaded.
	AppArmorProfile string
	SELinux         *selinux.Host
}

// DetectConfinement asks the kernel what it has and loads the default profile.
// dir is for temporary files.
func DetectConfinement(ctx context.Context, dir string) Confinement {
	c := Confinement{SELinux: selinux.Detect()}
	host := apparmor.NewHost()
	if !host.Enabled() {
		return c
	}
	c.AppArmor = host
	if err := host.LoadDefault(ctx, dir); err != nil {
		klog.FromContext(ctx).Error(err, "Containers are not confined by AppArmor unless they name a profile")
		return c
	}
	c.AppArmorProfile = apparmor.DefaultProfile
	return c
}

// describe tells the translation of containers.
func (c Confinement) describe(h *spec.Host) {
	if c.AppArmor != nil {
		h.AppArmor, h.AppArmorProfile, h.AppArmorLoaded = true, c.AppArmorProfile, c.AppArmor.Loaded
	}
}

func labelOptions(o *runtimeapi.SELinuxOption) selinux.Options {
	return selinux.Options{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}

// podLabels chooses the SELinux labels of a new pod. One that sees the host's
// processes or shares its memory is not kept from them.
func (s *Server) podLabels(id string, config *runtimeapi.PodSandboxConfig) (selinux.Labels, error) {
	sc := config.GetLinux().GetSecurityContext()
	o := sc.GetNamespaceOptions()
	unconfined := o.GetPid() == runtimeapi.NamespaceMode_NODE || o.GetIpc() == runtimeapi.NamespaceMode_NODE
	l, err := s.config.Confinement.SELinux.Allocate(id, labelOptions(sc.GetSelinuxOptions()), unconfined)
	if err != nil {
		return l, fmt.Errorf("config.linux.security_context.selinux_options: %w", err)
	}
	return l, nil
}

// labelFiles lets a pod's containers see its files.
func (s *Server) labelFiles(st *sandbox.Status) error {
	l := s.sandboxView(st).SELinux
	if l.Mount == "" {
		return nil
	}
	files := []string{st.Files.ResolvConf, st.Files.Hosts, st.Files.Hostname}
	if !st.Params.HostIPC {
		files = append(files, st.Files.Shm)
	}
	var errs []error
	for _, path := range files {
		errs = append(errs, s.config.Confinement.SELinux.Label(path, l.Mount))
	}
	return errors.Join(errs...)
}

// labels are the SELinux labels of a container.
func (s *Server) labels(st *sandbox.Status, config *runtimeapi.ContainerConfig) (selinux.Labels, error) {
	sc := config.GetLinux().GetSecurityContext()
	l, err := s.config.Confinement.SELinux.Container(s.sandboxView(st).SELinux, labelOptions(sc.GetSelinuxOptions()), sc.GetPrivileged())
	if err != nil {
		return l, fmt.Errorf("config.linux.security_context.selinux_options: %w", err)
	}
	return l, nil
}

// relabel labels the volumes of a container: those that the request says, and
// the image's own, which are new.
func (s *Server) relabel(ctx context.Context, pod *spec.Pod, out *spec.Output) error {
	if pod.MountLabel == "" {
		return nil
	}
	l := selinux.Labels{Process: pod.ProcessLabel, Mount: pod.MountLabel}
	paths := out.Relabel
	for _, v := range out.Volumes {
		paths = append(paths, v.Dir)
	}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.config.Confinement.SELinux.Relabel(path, l); err != nil {
			return fmt.Errorf("config.mounts: selinux_relabel: %w", err)
		}
	}
	return nil
}

package kube

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// mounts adds the volumes of a container to its request, and returns the files it
// is to have.
func (all *objects) mounts(pod *corev1.Pod, c *corev1.Container, r *nodev1.CreateRequest) ([]inject.File, error) {
	var files []inject.File
	for i, m := range c.VolumeMounts {
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			return nil, fmt.Errorf("volumeMounts[%d]: the pod has no volume %s", i, m.Name)
		}
		more, err := all.mount(pod, pod.Spec.Volumes[at], m, r)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", m.Name, err)
		}
		files = append(files, more...)
	}
	return files, nil
}

func (all *objects) mount(pod *corev1.Pod, v corev1.Volume, m corev1.VolumeMount, r *nodev1.CreateRequest) ([]inject.File, error) {
	switch {
	case v.HostPath != nil:
		bind, err := hostPath(v.HostPath, m)
		if err != nil {
			return nil, err
		}
		r.Container.Mounts = append(r.Container.Mounts, bind)
	case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory && len(pod.Spec.Containers) == 1 && m.SubPath == "":
		tmpfs := &nodev1.Tmpfs{Path: m.MountPath, Options: []string{"mode=1777"}}
		if size := v.EmptyDir.SizeLimit; size != nil {
			tmpfs.Options = append(tmpfs.Options, fmt.Sprintf("size=%d", size.Value()))
		}
		r.Tmpfs = append(r.Tmpfs, tmpfs)
	case v.EmptyDir != nil:
		r.Volumes = append(r.Volumes, &nodev1.VolumeMount{Name: emptyDirName(pod, v.Name), Path: m.MountPath, Readonly: m.ReadOnly, NoCopy: true, Subpath: m.SubPath})
	case v.PersistentVolumeClaim != nil:
		r.Volumes = append(r.Volumes, &nodev1.VolumeMount{
			Name: v.PersistentVolumeClaim.ClaimName, Path: m.MountPath, Subpath: m.SubPath,
			Readonly: m.ReadOnly || v.PersistentVolumeClaim.ReadOnly, NoCopy: true,
		})
	case v.Image != nil:
		r.Container.Mounts = append(r.Container.Mounts, &runtimeapi.Mount{
			Image:         &runtimeapi.ImageSpec{Image: v.Image.Reference, UserSpecifiedImage: v.Image.Reference},
			ContainerPath: m.MountPath, ImageSubPath: m.SubPath, Readonly: true,
		})
	case v.ConfigMap != nil:
		c, ok := all.configMaps[v.ConfigMap.Name]
		if !ok && !optional(v.ConfigMap.Optional) {
			return nil, fmt.Errorf("ConfigMap %s is not in the file", v.ConfigMap.Name)
		}
		data := map[string][]byte{}
		maps.Copy(data, c.BinaryData)
		for key, value := range c.Data {
			data[key] = []byte(value)
		}
		return project(data, v.ConfigMap.Items, v.ConfigMap.DefaultMode, m)
	case v.Secret != nil:
		s, ok := all.secrets[v.Secret.SecretName]
		if !ok && !optional(v.Secret.Optional) {
			return nil, fmt.Errorf("secret %s is not in the file", v.Secret.SecretName)
		}
		return project(s.Data, v.Secret.Items, v.Secret.DefaultMode, m)
	default:
		return nil, fmt.Errorf("only hostPath, emptyDir, configMap, secret, image and persistentVolumeClaim are known here")
	}
	return nil, nil
}

// emptyDirName is the volume that stands for an emptyDir, which the containers of a
// pod share.
func emptyDirName(pod *corev1.Pod, volume string) string { return pod.Name + "-" + volume }

// hostPath makes what its type asks for, as kubelet does.
func hostPath(h *corev1.HostPathVolumeSource, m corev1.VolumeMount) (*runtimeapi.Mount, error) {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	switch {
	case err != nil && kind == corev1.HostPathDirectoryOrCreate:
		err = os.MkdirAll(h.Path, 0o755)
	case err != nil && kind == corev1.HostPathFileOrCreate:
		var f *os.File
		if f, err = os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = f.Close()
		}
	case err == nil && kind == corev1.HostPathDirectory && !info.IsDir():
		return nil, fmt.Errorf("%s is no directory", h.Path)
	case err == nil && kind == corev1.HostPathFile && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", h.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("hostPath: %w", err)
	}
	bind := &runtimeapi.Mount{HostPath: path.Join(h.Path, m.SubPath), ContainerPath: m.MountPath, Readonly: m.ReadOnly}
	if m.MountPropagation != nil {
		switch *m.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			bind.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			bind.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case corev1.MountPropagationNone:
		}
	}
	return bind, nil
}

// project are the files of a ConfigMap or Secret where a container wants them.
func project(data map[string][]byte, items []corev1.KeyToPath, mode *int32, m corev1.VolumeMount) ([]inject.File, error) {
	if len(items) == 0 {
		for _, key := range slices.Sorted(maps.Keys(data)) {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	var files []inject.File
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			return nil, fmt.Errorf("there is no key %s", item.Key)
		}
		f := inject.File{Path: path.Join(m.MountPath, item.Path), Mode: 0o644, Content: content}
		if m.SubPath != "" {
			if path.Clean(m.SubPath) != path.Clean(item.Path) {
				continue
			}
			f.Path = m.MountPath
		}
		if mode != nil {
			f.Mode = int64(*mode)
		}
		if item.Mode != nil {
			f.Mode = int64(*item.Mode)
		}
		files = append(files, f)
	}
	return files, nil
}

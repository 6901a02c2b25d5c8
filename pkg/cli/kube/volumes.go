package kube

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/inject"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// volumes are the volumes that a pod has for itself: its emptyDirs, and its
// ConfigMaps and Secrets with their files.
func (all *objects) volumes(pod *corev1.Pod) ([]*nodev1.CreateVolumeRequest, error) {
	var requests []*nodev1.CreateVolumeRequest
	for i, v := range pod.Spec.Volumes {
		r := &nodev1.CreateVolumeRequest{Name: ownVolume(pod, v.Name), Labels: map[string]string{labelPod: pod.Name}}
		switch {
		case v.EmptyDir != nil:
			r.Mode = 0o777 // whoever a container is, it can write here
		case v.ConfigMap != nil || v.Secret != nil:
			files, err := all.files(v)
			if err != nil {
				return nil, fmt.Errorf("spec.volumes[%d]: %s: %w", i, v.Name, err)
			}
			for _, f := range files {
				to := &nodev1.VolumeFile{Path: f.Path, Mode: uint32(f.Mode), Content: f.Content}
				if context := pod.Spec.SecurityContext; context != nil && context.FSGroup != nil {
					to.Gid, to.Mode = uint32(*context.FSGroup), to.Mode|0o440
				}
				r.Files = append(r.Files, to)
			}
		default:
			continue
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// mounts adds the volumes of a container to its request, and returns the files it
// is to have by themselves.
func (all *objects) mounts(pod *corev1.Pod, c *corev1.Container, r *nodev1.CreateRequest) ([]inject.File, error) {
	var files []inject.File
	for i, m := range c.VolumeMounts {
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		more, err := all.mount(pod, pod.Spec.Volumes[at], m, r)
		if err != nil {
			return nil, fmt.Errorf("volumeMounts[%d]: volume %s: %w", i, m.Name, err)
		}
		files = append(files, more...)
	}
	return files, nil
}

func (all *objects) mount(pod *corev1.Pod, v corev1.Volume, m corev1.VolumeMount, r *nodev1.CreateRequest) ([]inject.File, error) {
	if m.SubPath != "" && (v.EmptyDir != nil || v.PersistentVolumeClaim != nil) {
		return nil, errors.New("subPath: a part of it cannot be mounted here")
	}
	switch {
	case v.HostPath != nil:
		bind, err := hostPath(v.HostPath, m)
		if err != nil {
			return nil, err
		}
		r.Container.Mounts = append(r.Container.Mounts, bind)
	case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory && len(pod.Spec.Containers)+len(pod.Spec.InitContainers) == 1:
		tmpfs := &nodev1.Tmpfs{Path: m.MountPath, Options: []string{"mode=1777"}}
		if size := v.EmptyDir.SizeLimit; size != nil {
			tmpfs.Options = append(tmpfs.Options, fmt.Sprintf("size=%d", size.Value()))
		}
		r.Tmpfs = append(r.Tmpfs, tmpfs)
	case v.EmptyDir != nil:
		r.Volumes = append(r.Volumes, &nodev1.VolumeMount{Name: ownVolume(pod, v.Name), Path: m.MountPath, Readonly: m.ReadOnly, NoCopy: true})
	case v.PersistentVolumeClaim != nil:
		r.Volumes = append(r.Volumes, &nodev1.VolumeMount{
			Name: v.PersistentVolumeClaim.ClaimName, Path: m.MountPath,
			Readonly: m.ReadOnly || v.PersistentVolumeClaim.ReadOnly, NoCopy: true,
		})
	case v.Image != nil:
		r.Container.Mounts = append(r.Container.Mounts, &runtimeapi.Mount{
			Image:         &runtimeapi.ImageSpec{Image: v.Image.Reference, UserSpecifiedImage: v.Image.Reference},
			ContainerPath: m.MountPath, ImageSubPath: m.SubPath, Readonly: true,
		})
	case (v.ConfigMap != nil || v.Secret != nil) && m.SubPath != "":
		return all.single(v, m)
	case v.ConfigMap != nil || v.Secret != nil:
		r.Volumes = append(r.Volumes, &nodev1.VolumeMount{Name: ownVolume(pod, v.Name), Path: m.MountPath, Readonly: true, NoCopy: true})
	default:
		return nil, errors.New("only hostPath, emptyDir, configMap, secret, image and persistentVolumeClaim are known here")
	}
	return nil, nil
}

// ownVolume is the volume that stands for one of a pod's, which its containers
// share. No name of an object has the sign between the two: "web-data" may be a
// claim, and to take that away with the pod would lose what it keeps.
func ownVolume(pod *corev1.Pod, volume string) string { return pod.Name + "_" + volume }

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

// files are the files of a ConfigMap or Secret, below their volume.
func (all *objects) files(v corev1.Volume) ([]inject.File, error) {
	if v.ConfigMap != nil {
		c, ok := all.configMaps[v.ConfigMap.Name]
		if !ok && !optional(v.ConfigMap.Optional) {
			return nil, fmt.Errorf("ConfigMap %s is not in the file", v.ConfigMap.Name)
		}
		data := map[string][]byte{}
		maps.Copy(data, c.BinaryData)
		for key, value := range c.Data {
			data[key] = []byte(value)
		}
		return project(data, v.ConfigMap.Items, v.ConfigMap.DefaultMode, optional(v.ConfigMap.Optional))
	}
	s, ok := all.secrets[v.Secret.SecretName]
	if !ok && !optional(v.Secret.Optional) {
		return nil, fmt.Errorf("secret %s is not in the file", v.Secret.SecretName)
	}
	return project(s.Data, v.Secret.Items, v.Secret.DefaultMode, optional(v.Secret.Optional))
}

// single is one file of a ConfigMap or Secret, in the middle of others of the
// image.
func (all *objects) single(v corev1.Volume, m corev1.VolumeMount) ([]inject.File, error) {
	files, err := all.files(v)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.Path == path.Clean(m.SubPath) {
			f.Path = m.MountPath
			return []inject.File{f}, nil
		}
	}
	return nil, fmt.Errorf("subPath: there is no file %s in it", m.SubPath)
}

// project are the files of data, as a volume wants them.
func project(data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool) ([]inject.File, error) {
	if len(items) == 0 {
		for _, key := range slices.Sorted(maps.Keys(data)) {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	var files []inject.File
	for i, item := range items {
		content, ok := data[item.Key]
		switch {
		case !ok && optional:
			continue
		case !ok:
			return nil, fmt.Errorf("items[%d].key: there is no key %s", i, item.Key)
		case !filepath.IsLocal(item.Path) || path.Clean(item.Path) == ".":
			return nil, fmt.Errorf("items[%d].path: %q is no path below a volume", i, item.Path)
		}
		f := inject.File{Path: path.Clean(item.Path), Mode: 0o644, Content: content}
		for _, m := range []*int32{mode, item.Mode} {
			switch {
			case m == nil:
			case *m < 0 || *m > 0o777:
				return nil, fmt.Errorf("mode: %#o is not from 0 to 0777", *m)
			default:
				f.Mode = int64(*m)
			}
		}
		files = append(files, f)
	}
	return files, nil
}

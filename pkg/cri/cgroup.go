package cri

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// scopePrefix begins the names of the scopes systemd makes for containers.
const scopePrefix = "cri-node"

// cgroupParent turns what kubelet gives as a pod's cgroup parent into what the
// cgroup driver works with: a path, or with systemd the name of a slice.
func (s *Server) cgroupParent(requested string) (string, error) {
	if requested == "" {
		return s.config.CgroupRoot, nil
	}
	if !s.config.SystemdCgroup {
		if strings.HasSuffix(requested, ".slice") && !strings.Contains(strings.Trim(requested, "/"), "/") {
			return "", fmt.Errorf("config.linux.cgroup_parent: %q is a systemd slice, but the cgroup driver is cgroupfs: %w", requested, errdefs.ErrInvalidArgument)
		}
		clean := path.Clean("/" + requested)
		if clean == "/" || strings.Contains(requested, "..") {
			return "", fmt.Errorf("config.linux.cgroup_parent: %q is no path of a cgroup: %w", requested, errdefs.ErrInvalidArgument)
		}
		return clean, nil
	}
	slice := path.Base(requested)
	if !strings.HasSuffix(slice, ".slice") || slice == ".slice" || strings.Contains(slice, "..") {
		return "", fmt.Errorf("config.linux.cgroup_parent: %q must be a slice, because the cgroup driver is systemd: %w", requested, errdefs.ErrInvalidArgument)
	}
	return slice, nil
}

// cgroupDir is the path of a parent in the cgroup trees.
func (s *Server) cgroupDir(parent string) string {
	if !s.config.SystemdCgroup {
		return parent
	}
	return expandSlice(parent)
}

// containerCgroup returns a container's cgroup as a path in the trees, and as
// the cgroupsPath of its spec. The last part ends in the container's id: that
// is how kubelet and cadvisor know it.
func (s *Server) containerCgroup(parent, id string) (dir, cgroupsPath string) {
	if !s.config.SystemdCgroup {
		dir = path.Join(parent, id)
		return dir, dir
	}
	return path.Join(expandSlice(parent), scopePrefix+"-"+id+".scope"), parent + ":" + scopePrefix + ":" + id
}

// expandSlice gives the path systemd puts a slice at: a-b.slice is in a.slice
// (systemd.slice(5)).
func expandSlice(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return "/"
	}
	dir, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		dir = path.Join(dir, prefix+".slice")
		prefix += "-"
	}
	return dir
}

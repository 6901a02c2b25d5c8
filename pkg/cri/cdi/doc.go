// Package cdi gives containers the devices that vendors describe in files of
// the Container Device Interface: device nodes, mounts, variables and hooks
// that belong together under a name such as vendor.com/gpu=0.
//
// # Who asks
//
// CRI's field CDI_devices, and, for older kubelets and device plugins, the
// annotations cdi.k8s.io/… and tags.cncf.io/container-device-interface of the
// container. Those of the pod, which its author writes, are not looked at.
//
// # Trust
//
// The files are the machine's: whoever may write them is root, as hooks in them
// run as root on the host. What they say is applied after everything that the
// request says and is not held against our rules for requests. The names come
// with the request and are checked.
//
// # State and locks
//
// Registry keeps the parsed files and looks before each use whether a file has
// come, gone or changed (inode, size, times). It watches nothing and has no
// goroutine. One mutex covers the look and the reading.
//
// # What it is not for
//
// It writes no CDI files and knows no vendors.
package cdi

// Package plane runs a control plane: etcd, kube-apiserver, kube-controller-manager
// and kube-scheduler as processes on their usual ports, so that there can be one in
// each network namespace. The API server listens on every address and says that it
// is at Host.
//
// Its directory:
//
//	pki/  certificates and keys, made anew for each plane
//	kubeconfig/  one for each user: admin, controller-manager, scheduler, ...
//	etcd/  the data; not flushed to disk, as it lives no longer than the plane
//	logs of the four processes
//
// Services have addresses of ServiceCIDR and, where asked for, IPv6 ones; the
// cluster's DNS is at DNS. Users are told apart by their certificates alone:
// User makes another one. The package runs no node: package worker does.
package plane

package plane

import (
	"fmt"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
)

// arguments are those with which a program of the plane is started.
func (p *Plane) arguments(name string) []string {
	pki := func(file string) string { return p.path("pki", file) }
	switch name {
	case build.Etcd:
		const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
		return []string{
			"--name=cluster", "--data-dir=" + p.path("etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=cluster=" + peer,
		}
	case build.APIServer:
		return []string{
			"--etcd-servers=http://127.0.0.1:2379", "--advertise-address=" + p.options.Host,
			fmt.Sprintf("--secure-port=%d", port), "--service-cluster-ip-range=" + ServiceCIDR,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
			"--client-ca-file=" + p.CA(),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--kubelet-certificate-authority=" + p.CA(), "--kubelet-preferred-address-types=InternalIP",
			"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
			"--service-account-issuer=https://kubernetes.default.svc." + Domain,
			"--service-account-key-file=" + pki("service-account.crt"), "--service-account-signing-key-file=" + pki("service-account.key"),
			"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		}
	case build.ControllerManager:
		config := p.Kubeconfig(build.ControllerManager)
		return []string{
			"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--leader-elect=false", "--use-service-account-credentials", "--controllers=*",
			"--root-ca-file=" + p.CA(), "--service-account-private-key-file=" + pki("service-account.key"),
			"--cluster-signing-cert-file=" + p.CA(), "--cluster-signing-key-file=" + pki("ca.key"),
		}
	case build.Scheduler:
		config := p.Kubeconfig(build.Scheduler)
		return []string{
			"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--leader-elect=false",
		}
	}
	return nil
}

package worker

import (
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/plane"
	"github.com/cri-node/cri-node/test/e2e/cluster/process"
)

// ReadOnlyPort is where the kubelet of a worker without a control plane tells its
// pods.
const ReadOnlyPort = 10255

// kubeletSpec writes what kubelet needs and says how to run it.
func (w *Worker) kubeletSpec() (process.Spec, error) {
	o := w.options
	s := process.Spec{
		Name: "kubelet-" + o.Name, LogDir: o.LogDir, Path: o.Programs.Path(build.Kubelet), NetNS: o.NetNS,
		Args: []string{
			"--config=" + w.path("kubelet.yaml"), "--root-dir=" + w.path("kubelet"), "--cert-dir=" + w.path("kubelet/pki"),
			"--hostname-override=" + o.Name, "--v=4",
		},
		Env: []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + w.Bus()},
	}
	if o.IP != "" {
		s.Args = append(s.Args, "--node-ip="+o.IP)
	}
	config, err := w.kubeletConfig()
	if err != nil {
		return s, err
	}
	if o.Plane != nil {
		config.TLSCertFile, config.TLSPrivateKeyFile, err = o.Plane.Server("kubelet-server-"+o.Name, "system:node:"+o.Name, o.Name, o.IP, "127.0.0.1")
		if err != nil {
			return s, err
		}
		user, err := o.Plane.User("kubelet-"+o.Name, "system:node:"+o.Name, "system:nodes")
		if err != nil {
			return s, err
		}
		s.Args = append(s.Args, "--kubeconfig="+user)
	}
	if o.Kubelet != nil {
		o.Kubelet(config)
	}
	s.Args = append(s.Args, o.KubeletArgs...)
	data, err := yaml.Marshal(config)
	if err != nil {
		return s, fmt.Errorf("write configuration of kubelet: %w", err)
	}
	return s, os.WriteFile(w.path("kubelet.yaml"), data, 0o600)
}

// kubeletConfig is the usual configuration: kubelet's defaults, but for where
// things are and what a machine for tests may lack.
func (w *Worker) kubeletConfig() (*kubeletconfig.KubeletConfiguration, error) {
	// Pods without a name server of the cluster ask nobody.
	resolver := w.path("resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return nil, err
	}
	no := false
	// A kubelet without the capability SYS_RESOURCE may not lower it.
	var adjustment int32
	parallel := int32(4)
	highest, lowest := int32(100), int32(99)
	endpoint := w.options.Endpoint
	if w.Node != nil {
		endpoint = w.Node.Endpoint()
	}
	c := &kubeletconfig.KubeletConfiguration{
		TypeMeta:                 metav1.TypeMeta{APIVersion: kubeletconfig.SchemeGroupVersion.String(), Kind: "KubeletConfiguration"},
		ContainerRuntimeEndpoint: endpoint,
		CgroupRoot:               w.options.Cgroup,
		StaticPodPath:            w.Manifests,
		PodLogsDir:               w.path("podlogs"),
		VolumePluginDir:          w.path("kubelet/volume-plugins"),
		ResolverConfig:           &resolver,
		FailSwapOn:               &no,
		FailCgroupV1:             &no,
		OOMScoreAdj:              &adjustment,
		SerializeImagePulls:      &no,
		MaxParallelImagePulls:    &parallel,
		// The disk is the machine's, and how full it is no matter of the tests.
		EvictionHard: map[string]string{
			"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%", "imagefs.inodesFree": "1%",
		},
		ImageGCHighThresholdPercent: &highest,
		ImageGCLowThresholdPercent:  &lowest,
		// Static pods and secrets are seen soon.
		FileCheckFrequency: metav1.Duration{Duration: time.Second},
	}
	if w.options.Plane != nil {
		yes := true
		c.Authentication.X509.ClientCAFile = w.options.Plane.CA()
		c.Authentication.Webhook.Enabled = &yes
		c.Authentication.Anonymous.Enabled = &no
		c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
		c.ClusterDNS, c.ClusterDomain = []string{plane.DNS}, plane.Domain
	} else {
		c.Authentication.Webhook.Enabled = &no
		c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
		c.ReadOnlyPort = ReadOnlyPort
	}
	return c, nil
}

// proxySpec says how to run kube-proxy.
func (w *Worker) proxySpec() process.Spec {
	o := w.options
	return process.Spec{
		Name: "kube-proxy-" + o.Name, LogDir: o.LogDir, Path: o.Programs.Path(build.Proxy), NetNS: o.NetNS,
		Args: append([]string{
			"--kubeconfig=" + o.Plane.Kubeconfig(build.Proxy), "--hostname-override=" + o.Name,
			"--proxy-mode=nftables", "--detect-local-mode=BridgeInterface", "--pod-bridge-interface=" + w.Node.Bridge,
			// The limits of connections are the machine's.
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
			"--oom-score-adj=0",
		}, o.ProxyArgs...),
	}
}

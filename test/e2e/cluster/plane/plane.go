package plane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/process"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// What every plane has.
const (
	// ServiceCIDR holds the addresses of services, and DNS is that of the
	// cluster's name server.
	ServiceCIDR = "10.96.0.0/16"
	DNS         = "10.96.0.10"
	// Domain is that of the cluster's names.
	Domain = "cluster.local"
	// Admin is the user who may do everything.
	Admin = "admin"

	service = "10.96.0.1"
	port    = 6443
)

// Options say what plane to start.
type Options struct {
	Programs build.Programs
	// Dir is for its files, LogDir for its logs.
	Dir, LogDir string
	// Host is the address at which nodes and pods reach the API server.
	Host string
	// Args are added to those of a program, such as build.APIServer.
	Args map[string][]string
}

// Plane is a running control plane.
type Plane struct {
	options   Options
	authority *authority
	processes map[string]*process.Process
	config    *rest.Config
	client    kubernetes.Interface
}

// order is that in which the programs are started.
var order = []string{build.Etcd, build.APIServer, build.ControllerManager, build.Scheduler}

// Start starts a plane, or goes on with that of another program of tests in the
// same directory, and waits until it is ready. On an error its processes have ended.
func Start(ctx context.Context, o Options) (*Plane, error) {
	p := &Plane{options: o, processes: map[string]*process.Process{}}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("prepare control plane: %w", err)
	}
	if err := p.run(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// prepare makes certificates and configuration.
func (p *Plane) prepare() (err error) {
	for _, dir := range []string{p.options.LogDir, p.path("pki"), p.path("kubeconfig"), p.path("etcd")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if p.authority, err = newAuthority(p.path("pki"), "ca"); err != nil {
		return err
	}
	if p.config, err = p.restConfig(); err == nil {
		p.client, err = kubernetes.NewForConfig(p.config)
		return err
	}
	proxies, err := newAuthority(p.path("pki"), "front-proxy-ca")
	if err != nil {
		return err
	}
	hosts := []string{
		"localhost", "127.0.0.1", p.options.Host, service,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + Domain,
	}
	err = errors.Join(
		proxies.issue("front-proxy-client", subject{user: "front-proxy-client"}),
		p.authority.issue("apiserver", subject{user: "kube-apiserver", hosts: hosts}),
		p.authority.issue("apiserver-kubelet", subject{user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}}),
		p.authority.issue("service-account", subject{user: "service-accounts"}),
	)
	for _, u := range []struct {
		name, user string
		groups     []string
	}{
		{Admin, "kubernetes-admin", []string{"system:masters"}},
		{build.ControllerManager, "system:kube-controller-manager", nil},
		{build.Scheduler, "system:kube-scheduler", nil},
		{build.Proxy, "system:kube-proxy", nil},
	} {
		_, userErr := p.User(u.name, u.user, u.groups...)
		err = errors.Join(err, userErr)
	}
	if err != nil {
		return err
	}
	if p.config, err = p.restConfig(); err != nil {
		return err
	}
	p.client, err = kubernetes.NewForConfig(p.config)
	return err
}

func (p *Plane) restConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig(Admin))
	if err != nil {
		return nil, err
	}
	// The tests ask as often as they like.
	config.QPS, config.Burst = 500, 1000
	return config, nil
}

// run starts what does not run yet and waits until it answers.
func (p *Plane) run(ctx context.Context) error {
	for _, name := range order {
		running, ok, err := process.Attach(p.spec(name))
		if err == nil && !ok {
			running, err = process.Start(p.spec(name))
		}
		if err != nil {
			return err
		}
		p.processes[name] = running
		if name == build.APIServer {
			if err := p.Await(ctx, 90*time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Plane) spec(name string) process.Spec {
	return process.Spec{
		Name: name, LogDir: p.options.LogDir, Path: p.options.Programs.Path(name),
		Args: slices.Concat(p.arguments(name), p.options.Args[name]),
	}
}

// Await waits until the API server is ready.
func (p *Plane) Await(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	server := p.processes[build.APIServer]
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		code := 0
		result := p.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&code)
		if code == http.StatusOK {
			return nil
		}
		select {
		case <-server.Exited():
			return fmt.Errorf("the API server ended while starting\n%s", server.Spec.LogTail(20))
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w\n%s", result.Error(), server.Spec.LogTail(20))
		case <-ticker.C:
		}
	}
}

// Kubeconfig is the file with which a user of the plane, such as Admin, comes.
func (p *Plane) Kubeconfig(name string) string { return p.path("kubeconfig", name) }

// User makes the kubeconfig of a user, with a certificate for it, and returns its
// file.
func (p *Plane) User(name, user string, groups ...string) (string, error) {
	if err := p.authority.issue(name, subject{user: user, groups: groups}); err != nil {
		return "", err
	}
	config := clientapi.NewConfig()
	config.Clusters["cluster"] = &clientapi.Cluster{
		Server: fmt.Sprintf("https://%s:%d", p.options.Host, port), CertificateAuthority: p.CA(),
	}
	config.AuthInfos[name] = &clientapi.AuthInfo{ClientCertificate: p.path("pki", name+".crt"), ClientKey: p.path("pki", name+".key")}
	config.Contexts["cluster"] = &clientapi.Context{Cluster: "cluster", AuthInfo: name}
	config.CurrentContext = "cluster"
	return p.Kubeconfig(name), clientcmd.WriteToFile(*config, p.Kubeconfig(name))
}

// Server makes the certificate of a server, such as a kubelet, and returns the
// files of it and of its key.
func (p *Plane) Server(name, user string, hosts ...string) (cert, key string, err error) {
	err = p.authority.issue(name, subject{user: user, hosts: hosts})
	return p.path("pki", name+".crt"), p.path("pki", name+".key"), err
}

// CA is the file of the authority that all trust.
func (p *Plane) CA() string { return p.authority.path(".crt") }

// Host is the address at which nodes and pods reach the API server.
func (p *Plane) Host() string { return p.options.Host }

// Config is the administrator's configuration for clients.
func (p *Plane) Config() *rest.Config { return rest.CopyConfig(p.config) }

// Client is the administrator's client.
func (p *Plane) Client() kubernetes.Interface { return p.client }

// Process is one of the plane's programs, such as build.Scheduler.
func (p *Plane) Process(name string) *process.Process { return p.processes[name] }

// Kill ends all of it with SIGKILL.
func (p *Plane) Kill() error {
	var errs []error
	for _, name := range slices.Backward(order) {
		if running := p.processes[name]; running != nil {
			errs = append(errs, running.Kill())
		}
	}
	return errors.Join(errs...)
}

// Restart kills one of its programs, if it runs, and starts it again.
func (p *Plane) Restart(ctx context.Context, name string) error {
	if err := p.processes[name].Kill(); err != nil {
		return err
	}
	running, err := process.Start(p.spec(name))
	if err != nil {
		return err
	}
	p.processes[name] = running
	if name == build.APIServer || name == build.Etcd {
		return p.Await(ctx, 90*time.Second)
	}
	return nil
}

func (p *Plane) path(elements ...string) string {
	return filepath.Join(append([]string{p.options.Dir}, elements...)...)
}

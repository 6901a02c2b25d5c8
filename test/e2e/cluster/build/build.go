package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/image"
)

// DirVariable names the environment variable with the folder of the programs.
const DirVariable = "CRI_NODE_KUBERNETES_DIR"

// The programs there are.
const (
	Kubelet           = "kubelet"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Proxy             = "kube-proxy"
	Kubectl           = "kubectl"
	Etcd              = "etcd"
	CoreDNS           = "coredns"
	Agnhost           = "agnhost"
	Kubeadm           = "kubeadm"
)

// What the suites of Kubernetes take beside a cluster: themselves, what runs them,
// and the programs in the images of their specs.
const (
	E2E             = "e2e.test"
	E2ENode         = "e2e_node.test"
	Ginkgo          = "ginkgo"
	Pause           = "pause"
	NoNewPrivs      = "nonewprivs"
	Regression74839 = "regression-issue-74839"
	Consumer        = "resource-consumer"
	ConsumeCPU      = "consume-cpu"
	DevicePlugin    = "sample-device-plugin"
)

// packages are where the programs come from.
var packages = map[string]string{
	Kubelet:           "k8s.io/kubernetes/cmd/kubelet",
	APIServer:         "k8s.io/kubernetes/cmd/kube-apiserver",
	ControllerManager: "k8s.io/kubernetes/cmd/kube-controller-manager",
	Scheduler:         "k8s.io/kubernetes/cmd/kube-scheduler",
	Proxy:             "k8s.io/kubernetes/cmd/kube-proxy",
	Kubectl:           "k8s.io/kubernetes/cmd/kubectl",
	Etcd:              "go.etcd.io/etcd/server/v3",
	CoreDNS:           "github.com/coredns/coredns",
	Agnhost:           "k8s.io/kubernetes/test/images/agnhost",
	Kubeadm:           "k8s.io/kubernetes/cmd/kubeadm",
	E2E:               "k8s.io/kubernetes/test/e2e",
	E2ENode:           "k8s.io/kubernetes/test/e2e_node",
	Ginkgo:            "github.com/onsi/ginkgo/v2/ginkgo",
	Pause:             "./pause",
	NoNewPrivs:        "k8s.io/kubernetes/test/images/nonewprivs",
	Regression74839:   "k8s.io/kubernetes/test/images/regression-issue-74839",
	Consumer:          "k8s.io/kubernetes/test/images/resource-consumer",
	ConsumeCPU:        "k8s.io/kubernetes/test/images/resource-consumer/consume-cpu",
	DevicePlugin:      "k8s.io/kubernetes/test/images/sample-device-plugin",
	Containerd:        "github.com/containerd/containerd/v2/cmd/containerd",
	Shim:              "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
}

// module is one that pins programs as its tools.
type module struct {
	// folder is its own, beside this package, and bin that of what is built from
	// it, below bin of the repository.
	folder, bin string
	// variable names the environment variable with another folder for that.
	variable string
	// pinned is the module whose version is that of the programs.
	pinned string
}

var kubernetes = module{folder: "programs", bin: "kubernetes", variable: DirVariable, pinned: "k8s.io/kubernetes"}

// All are the programs of a whole cluster.
func All() []string {
	return []string{Kubelet, APIServer, ControllerManager, Scheduler, Proxy, Kubectl, Etcd, CoreDNS, Agnhost, Kubeadm}
}

// Suites are the suites of Kubernetes, with all that is named beside them.
func Suites() []string {
	return []string{E2E, E2ENode, Ginkgo, Pause, NoNewPrivs, Regression74839, Consumer, ConsumeCPU, DevicePlugin}
}

// Programs are built programs.
type Programs struct {
	// Dir is their folder.
	Dir string
	// Version is that of Kubernetes, such as "v1.37.2", or of what else they are.
	Version string
}

// Path is the file of a program.
func (p Programs) Path(name string) string { return filepath.Join(p.Dir, name) }

// Build makes those of the named programs that are not there yet.
func Build(ctx context.Context, names ...string) (Programs, error) {
	return kubernetes.build(ctx, names...)
}

// dir is the folder of the module.
func (m module) dir() (string, error) {
	source, err := image.SourceDir()
	return filepath.Join(source, "cluster", m.folder), err
}

// version is that of the programs, and required what the module requires.
func (m module) version() (version string, required []byte, err error) {
	dir, err := m.dir()
	if err != nil {
		return "", nil, err
	}
	if required, err = os.ReadFile(filepath.Join(dir, "go.mod")); err != nil {
		return "", nil, err
	}
	found := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(m.pinned) + ` (v\S+)`).FindSubmatch(required)
	if found == nil {
		return "", nil, fmt.Errorf("%s/go.mod requires no %s", dir, m.pinned)
	}
	return string(found[1]), required, nil
}

func (m module) build(ctx context.Context, names ...string) (Programs, error) {
	dir, err := m.dir()
	if err != nil {
		return Programs{}, err
	}
	p := Programs{Dir: os.Getenv(m.variable)}
	if p.Dir == "" {
		p.Dir = filepath.Join(dir, "..", "..", "..", "..", "bin", m.bin)
	}
	var required []byte
	if p.Version, required, err = m.version(); err != nil {
		return Programs{}, err
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return Programs{}, err
	}
	lock, err := os.Create(filepath.Join(p.Dir, ".lock"))
	if err != nil {
		return Programs{}, err
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Programs{}, fmt.Errorf("lock %s: %w", p.Dir, err)
	}
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return Programs{}, fmt.Errorf("ask for the version of go: %w", err)
	}
	for _, name := range names {
		flags := p.flags(name)
		sum := sha256.Sum256([]byte(string(required) + string(version) + strings.Join(flags, " ")))
		if err := p.build(ctx, dir, name, flags, fmt.Sprintf("%x\n", sum)); err != nil {
			return Programs{}, fmt.Errorf("build %s: %w", name, err)
		}
	}
	return p, nil
}

// build makes one program unless its stamp says that it is there.
func (p Programs) build(ctx context.Context, module, name string, flags []string, want string) error {
	stamp := filepath.Join(p.Dir, "."+name+".stamp")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if _, err := os.Stat(p.Path(name)); err == nil {
			return nil
		}
	}
	if err := os.Remove(stamp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Printf("building %s, which takes minutes the first time\n", name)
	verb := []string{"build", "-o", p.Path(name)}
	if strings.HasSuffix(name, ".test") {
		// Vet would look at all that it imports, too.
		verb = []string{"test", "-c", "-vet=off", "-o", p.Path(name)}
	}
	cmd := exec.CommandContext(ctx, "go", append(verb, append(flags, packages[name])...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.WriteFile(stamp, []byte(want), 0o644)
}

// flags are those that go build needs for a program.
func (p Programs) flags(name string) []string {
	link := "-s -w"
	switch {
	case strings.HasPrefix(packages[name], containerd.pinned+"/"):
		return containerdFlags(name, p.Version, link)
	case strings.HasPrefix(packages[name], "k8s.io/kubernetes/"):
		parts := strings.Split(strings.TrimPrefix(p.Version, "v"), ".")
		for _, where := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
			link += fmt.Sprintf(" -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s",
				where, p.Version, where, parts[0], where, parts[1])
		}
	}
	return []string{"-trimpath", "-buildvcs=false", "-ldflags=" + link}
}

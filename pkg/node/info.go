package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// information is what `info` prints, with docker's names where docker has them.
type information struct {
	ID                string `json:",omitempty"`
	Name              string
	ServerVersion     string
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Pods              int
	Images            int
	Driver            string
	CgroupDriver      string
	CgroupVersion     string
	DefaultRuntime    string
	Runtimes          []string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          uint64
	DockerRootDir     string
	StateDir          string
	Conditions        []condition
}

type condition struct{ Type, Status, Reason, Message string }

// Info describes the node.
func (s *system) Info(ctx context.Context, _ *nodev1.InfoRequest) (*nodev1.InfoResponse, error) {
	status, err := s.config.CRI.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, err
	}
	var config struct {
		DefaultHandler string `json:"defaultHandler"`
		CgroupDriver   string `json:"cgroupDriver"`
		CgroupV2       bool   `json:"cgroupV2"`
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["config"]), &config); err != nil {
		return nil, fmt.Errorf("read the status: %w", err)
	}
	out := information{
		ServerVersion: s.config.Version, Images: len(s.config.Images.List()), Driver: "overlayfs",
		CgroupDriver: strings.ToLower(config.CgroupDriver), CgroupVersion: "1", DefaultRuntime: config.DefaultHandler,
		OSType: goruntime.GOOS, Architecture: goruntime.GOARCH, NCPU: goruntime.NumCPU(),
		DockerRootDir: s.config.Root, StateDir: s.config.State, Pods: len(s.config.Sandboxes.List()),
	}
	if config.CgroupV2 {
		out.CgroupVersion = "2"
	}
	for _, h := range status.GetRuntimeHandlers() {
		if h.GetName() != "" {
			out.Runtimes = append(out.Runtimes, h.GetName())
		}
	}
	for _, c := range status.GetStatus().GetConditions() {
		out.Conditions = append(out.Conditions, condition{c.GetType(), fmt.Sprint(c.GetStatus()), c.GetReason(), c.GetMessage()})
	}
	for _, c := range s.config.Containers.List() {
		t, ok := s.seen(c)
		if !ok {
			continue
		}
		out.Containers++
		switch t.e.state(c.Status()) {
		case "running":
			out.ContainersRunning++
		case "paused":
			out.ContainersPaused++
		default:
			out.ContainersStopped++
		}
	}
	machine(&out)
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode information: %w", err)
	}
	return &nodev1.InfoResponse{Json: text}, nil
}

// totalMemory is how many bytes the machine has; 0 if the kernel does not say.
func totalMemory() uint64 {
	var memory unix.Sysinfo_t
	if unix.Sysinfo(&memory) != nil {
		return 0
	}
	return memory.Totalram * uint64(memory.Unit)
}

// machine fills in what the kernel says; what it does not say stays empty.
func machine(out *information) {
	out.Name, _ = os.Hostname()
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		out.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	out.MemTotal = totalMemory()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(release)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			out.OperatingSystem = strings.Trim(value, `"`)
		}
	}
}

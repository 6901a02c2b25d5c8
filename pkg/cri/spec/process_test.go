package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandLine(t *testing.T) {
	list := func(s string) []string { return strings.Fields(s) }
	for _, tc := range []struct{ command, args, entrypoint, cmd, want string }{
		{"", "", "e", "c", "e c"},
		{"", "", "e", "", "e"},
		{"", "", "", "c", "c"},
		{"", "a", "e", "c", "e a"},
		{"", "a", "", "c", "a"},
		{"x", "", "e", "c", "x"},
		{"x", "a b", "e", "c", "x a b"},
		{"x", "", "", "", "x"},
	} {
		in := testInput(t)
		in.Config.Command, in.Config.Args = list(tc.command), list(tc.args)
		in.Image.Config.Entrypoint, in.Image.Config.Cmd = list(tc.entrypoint), list(tc.cmd)
		if got := build(t, in).Spec.Process.Args; !slices.Equal(got, list(tc.want)) {
			t.Errorf("%+v: arguments are %q", tc, got)
		}
	}
	in := testInput(t)
	in.Config.Command = nil
	_, err := Container(t.Context(), in)
	wantInvalid(t, err, "config.command")
	in.Config.Command = []string{""}
	_, err = Container(t.Context(), in)
	wantInvalid(t, err, "config.command")
	in.Config.Command, in.Image.Config.Entrypoint = nil, []string{"a\x00b"}
	_, err = Container(t.Context(), in)
	wantInvalid(t, err, "config.command")
	in.Image = nil
	in.Config.Command = []string{"a"}
	build(t, in)
}

func TestHostileImageEnv(t *testing.T) {
	for _, kv := range []string{"", "A", "=x", "A=\x00", "A=\xff"} {
		in := testInput(t)
		in.Image.Config.Env = []string{"B=1", kv}
		_, err := Container(t.Context(), in)
		wantInvalid(t, err, "image config.Env[1]")
	}
}

// TestImageIsNotShared shows that two containers of one image do not see one
// another's environment (CVE-2021-21334).
func TestImageIsNotShared(t *testing.T) {
	in := testInput(t)
	in.Image.Config.Env = append(make([]string, 0, 10), "A=image")
	in.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("one")}, {Key: "B", Value: []byte("one")}}
	first := build(t, in).Spec.Process
	first.Args[0], first.Env[0] = "changed", "changed"
	if in.Image.Config.Env[0] != "A=image" || in.Config.Command[0] == "changed" {
		t.Error("the spec shares memory with its input")
	}
}

func TestRlimits(t *testing.T) {
	in := testInput(t)
	in.Defaults.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 20, Soft: 1 << 20}, {Type: "RLIMIT_CORE"}}
	in.Host.MaxRlimits = map[string]uint64{"RLIMIT_NOFILE": 4096}
	want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 4096}, {Type: "RLIMIT_CORE"}}
	if diff := cmp.Diff(want, build(t, in).Spec.Process.Rlimits); diff != "" {
		t.Error(diff)
	}
}

func TestProcess(t *testing.T) {
	in := testInput(t)
	in.security().NoNewPrivs = true
	in.security().RunAsUser = id(1000)
	in.Config.WorkingDir = "/work"
	init := build(t, in).Spec.Process
	init.ApparmorProfile = "p"
	init.ConsoleSize = &specs.Box{Height: 1, Width: 1}
	p, err := Process(init, []string{"ls", "-l"}, WithoutTerminal)
	must(t, err)
	want := *init
	want.Args, want.ConsoleSize = []string{"ls", "-l"}, nil
	want.Capabilities = p.Capabilities // empty sets of it are nil after JSON
	if diff := cmp.Diff(&want, p); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(p.Capabilities.Bounding, init.Capabilities.Bounding) || len(p.Capabilities.Inheritable) > 0 {
		t.Errorf("capabilities are %+v", p.Capabilities)
	}
	if slices.Contains(p.Env, "TERM=xterm") {
		t.Error("TERM without a terminal")
	}
	p.Env[0] = "changed"
	if init.Env[0] == "changed" {
		t.Error("the exec shares memory with the container")
	}

	p, err = Process(init, []string{"sh"}, WithTerminal)
	must(t, err)
	if !p.Terminal || !slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("terminal %v, environment %v", p.Terminal, p.Env)
	}
	init.Env = append(init.Env, "TERM=vt100")
	p, err = Process(init, []string{"sh"}, WithTerminal)
	must(t, err)
	if slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("environment is %v", p.Env)
	}
	if _, err := Process(init, nil, WithTerminal); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
}

func TestStopSignal(t *testing.T) {
	for _, tc := range []struct {
		request runtimeapi.Signal
		image   string
		number  unix.Signal
		cri     runtimeapi.Signal
		name    string
	}{
		{0, "", unix.SIGTERM, runtimeapi.Signal_SIGNAL_SIGTERM, "SIGTERM"},
		{0, "SIGQUIT", unix.SIGQUIT, runtimeapi.Signal_SIGNAL_SIGQUIT, "SIGQUIT"},
		{0, "int", unix.SIGINT, runtimeapi.Signal_SIGNAL_SIGINT, "SIGINT"},
		{0, "9", unix.SIGKILL, runtimeapi.Signal_SIGNAL_SIGKILL, "SIGKILL"},
		{0, "SIGRTMIN+3", 37, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3, "SIGRTMIN+3"},
		{0, "RTMAX-1", 63, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS1, "SIGRTMAX-1"},
		{0, "RTMAX", 64, runtimeapi.Signal_SIGNAL_SIGRTMAX, "SIGRTMAX"},
		{0, "SIGRTMIN", 34, runtimeapi.Signal_SIGNAL_SIGRTMIN, "SIGRTMIN"},
		{runtimeapi.Signal_SIGNAL_SIGUSR1, "SIGQUIT", unix.SIGUSR1, runtimeapi.Signal_SIGNAL_SIGUSR1, "SIGUSR1"},
		{runtimeapi.Signal_SIGNAL_SIGCLD, "", unix.SIGCHLD, runtimeapi.Signal_SIGNAL_SIGCLD, "SIGCHLD"},
		{runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, "", 50, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14, "SIGRTMAX-14"},
	} {
		in := testInput(t)
		in.Config.StopSignal, in.Image.Config.StopSignal = tc.request, tc.image
		s := build(t, in).StopSignal
		if s.Number != tc.number || s.CRI != tc.cri || s.Name() != tc.name {
			t.Errorf("%v %q: signal is %d %v %s", tc.request, tc.image, s.Number, s.CRI, s.Name())
		}
	}
	for _, bad := range []string{"SIGFOO", "0", "65", "-9", "RTMIN+99", "SIG", "15 ", "015", "SIGRTMAX-31"} {
		in := testInput(t)
		in.Image.Config.StopSignal = bad
		_, err := Container(t.Context(), in)
		wantInvalid(t, err, "image config.StopSignal")
	}
	// Every signal of CRI is one of Linux, and its name says which.
	for v, name := range runtimeapi.Signal_name {
		if v == 0 {
			continue
		}
		n, ok := criSignalNumber(runtimeapi.Signal(v))
		if !ok {
			t.Errorf("%s has no number", name)
			continue
		}
		spelled := strings.NewReplacer("SIGNAL_", "", "PLUS", "+", "MINUS", "-").Replace(name)
		parsed, err := ParseSignal(spelled)
		if alias := slices.Contains([]string{"SIGCLD", "SIGPOLL", "SIGIOT"}, spelled); !alias && (err != nil || parsed.Number != n) {
			t.Errorf("%s is %d, but %s parses as %d, %v", name, n, spelled, parsed.Number, err)
		}
	}
}

func TestNamespaces(t *testing.T) {
	const pod, container, node, target = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_TARGET
	for _, tc := range []struct {
		name           string
		sandbox        runtimeapi.NamespaceMode
		container      *runtimeapi.NamespaceOption
		pidNS, want    string // want: path, "own" or "host"
		wantDetailFail bool
	}{
		{"as kubelet", container, &runtimeapi.NamespaceOption{Pid: container}, "", "own", false},
		{"shared", pod, &runtimeapi.NamespaceOption{Pid: pod}, "/p", "/p", false},
		{"host", node, &runtimeapi.NamespaceOption{Pid: node}, "", "host", false},
		{"unset follows pod", node, nil, "", "host", false},
		{"unset follows container mode", container, nil, "", "own", false},
		{"partly set follows pod", container, &runtimeapi.NamespaceOption{}, "", "own", false},
		{"target", container, &runtimeapi.NamespaceOption{Pid: target, TargetId: "x"}, "", "/t", false},
		{"shared without", pod, &runtimeapi.NamespaceOption{}, "", "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.Pid = tc.sandbox
			in.security().NamespaceOptions = tc.container
			in.Pod.PIDNS, in.Pod.TargetPIDNS = tc.pidNS, "/t"
			out, err := Container(t.Context(), in)
			if tc.wantDetailFail {
				if !errdefs.IsFailedPrecondition(err) {
					t.Errorf("error is %v", err)
				}
				return
			}
			must(t, err)
			got := "host"
			for _, ns := range out.Spec.Linux.Namespaces {
				if ns.Type == specs.PIDNamespace {
					if got = ns.Path; got == "" {
						got = "own"
					}
				}
			}
			if got != tc.want {
				t.Errorf("PID namespace is %s, want %s", got, tc.want)
			}
			if out.Spec.Hostname != "" {
				t.Errorf("hostname is %q", out.Spec.Hostname)
			}
		})
	}
}

func TestPrivilegedSandboxCounts(t *testing.T) {
	in := testInput(t)
	in.privileged()
	in.Pod.Privileged = false // the configuration says one thing, the pod another
	_, err := Container(t.Context(), in)
	wantInvalid(t, err, fieldSecurity+".privileged")
}

package node

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/restart"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestCommand(t *testing.T) {
	img := &ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"e"}, Cmd: []string{"c"}}}
	for _, test := range []struct {
		command, args []string
		cleared       bool
		want          string
	}{
		{nil, nil, false, "e c"},
		{nil, []string{"a"}, false, "e a"},
		{[]string{"x"}, nil, false, "x"},
		{[]string{"x"}, []string{"a"}, false, "x a"},
		{nil, []string{"a"}, true, "a"},
	} {
		got := command(&runtimeapi.ContainerConfig{Command: test.command, Args: test.args}, img, test.cleared)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%v %v %v: %q, want %q", test.command, test.args, test.cleared, got, test.want)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		request *nodev1.CreateRequest
		plan    func(*plan) error
	}{
		"a host without an address": {&nodev1.CreateRequest{ExtraHosts: []string{"name"}}, (*plan).planHosts},
		"a host of a bad address":   {&nodev1.CreateRequest{ExtraHosts: []string{"name:1.2.3"}}, (*plan).planHosts},
		"two words as a host":       {&nodev1.CreateRequest{ExtraHosts: []string{"a b:1.2.3.4"}}, (*plan).planHosts},
		"an unknown limit":          {&nodev1.CreateRequest{Ulimits: []*nodev1.Ulimit{{Name: "files"}}}, (*plan).planLimits},
		"soft above hard":           {&nodev1.CreateRequest{Ulimits: []*nodev1.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}, (*plan).planLimits},
		"a relative volume":         {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Path: "v"}}}, (*plan).planVolumes},
		"a volume as root":          {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Path: "/.."}}}, (*plan).planVolumes},
		"one volume over another":   {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Path: "/v"}, {Path: "/v/"}}}, (*plan).planVolumes},
		"a volume named as a path":  {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Name: "../x", Path: "/v"}}}, (*plan).planVolumes},
		"a path of 64 characters":   {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Name: strings.Repeat("../", 20) + "root", Path: "/v"}}}, (*plan).planVolumes},
		"64 characters of no id":    {&nodev1.CreateRequest{Volumes: []*nodev1.VolumeMount{{Name: strings.Repeat("x", 64), Path: "/v"}}}, (*plan).planVolumes},
		"a bad alias":               {&nodev1.CreateRequest{Networks: []*nodev1.NetworkMembership{{Network: "n", Aliases: []string{"a\nb"}}}}, (*plan).planNetworks},
		"a bad signal":              {&nodev1.CreateRequest{StopSignal: "SIGNO"}, (*plan).checkSignal},
		"a bad policy":              {&nodev1.CreateRequest{Restart: &nodev1.RestartPolicy{Name: "perhaps"}}, (*plan).checkPolicy},
		"removal and restart":       {&nodev1.CreateRequest{AutoRemove: true, Restart: &nodev1.RestartPolicy{Name: "always"}}, (*plan).checkPolicy},
	} {
		p := &plan{request: test.request, container: &runtimeapi.ContainerConfig{}}
		if err := test.plan(p); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanHosts(t *testing.T) {
	p := &plan{request: &nodev1.CreateRequest{ExtraHosts: []string{"a:1.2.3.4", "b=5.6.7.8", "c:::1", "d:[::1]", "e:host-gateway"}}}
	if err := p.planHosts(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"1.2.3.4\ta", "5.6.7.8\tb", "::1\tc", "::1\td", "host-gateway\te"}; !slices.Equal(p.hosts, want) {
		t.Errorf("%q, want %q", p.hosts, want)
	}
}

// TestHostLines: those of the same network alone, with the aliases they have in
// it, and itself.
func TestHostLines(t *testing.T) {
	web := member{podID: "1", networks: []membership{{Network: "blue"}}, names: []string{"web"}, ips: []string{"10.0.0.1"}}
	db := member{podID: "2", networks: []membership{{"blue", []string{"database", "db"}}, {"red", []string{"secret"}}}, names: []string{"db"}, ips: []string{"10.0.0.2", "fd00::2"}}
	other := member{podID: "3", networks: []membership{{Network: "red"}}, names: []string{"other"}, ips: []string{"10.0.0.3"}}
	all := []member{web, db, other}
	if got := hostLines(web, all); !slices.Equal(got, []string{"10.0.0.1\tweb", "10.0.0.2\tdb database", "fd00::2\tdb database"}) {
		t.Errorf("%q", got)
	}
	if got := hostLines(other, all); !slices.Equal(got, []string{"10.0.0.2\tdb secret", "fd00::2\tdb secret", "10.0.0.3\tother"}) {
		t.Errorf("%q", got)
	}
}

func TestTable(t *testing.T) {
	tab := &table{byID: map[string]*entry{}, byName: map[string]*entry{}, leaving: map[string]*entry{}}
	a, b := newEntry(record{ID: "a", Name: "one"}), newEntry(record{ID: "b", Name: "one"})
	if err := tab.add(a, nil); err != nil {
		t.Fatal(err)
	}
	if err := tab.add(b, nil); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "cri-node rm one") || strings.HasSuffix(err.Error(), "already exists") {
		t.Errorf("%v", err)
	}
	if tab.get("b") != nil {
		t.Error("a container without a name is there")
	}
	tab.forget(a)
	if tab.named("one") != nil || tab.get("a") != nil || tab.remembered("a") != a {
		t.Error("it is not forgotten, or not remembered")
	}
	tab.left(a)
	if tab.remembered("a") != nil {
		t.Error("it is remembered for ever")
	}
}

func TestState(t *testing.T) {
	e := newEntry(record{})
	status := func(s runtime.State, paused bool, reason string) *runtime.Status {
		return &runtime.Status{State: s, Paused: paused, Reason: reason, FinishedAt: time.Unix(1, 0)}
	}
	for want, st := range map[string]*runtime.Status{
		"created": status(runtime.Created, false, ""), "running": status(runtime.Running, false, ""), "paused": status(runtime.Running, true, ""),
		"exited": status(runtime.Exited, false, ""), "dead": status(runtime.Exited, false, runtime.ReasonRecordBroken),
	} {
		if got := e.state(st); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	e.beginWait()
	if got := e.state(status(runtime.Exited, false, "")); got != "restarting" {
		t.Error(got)
	}
	if !e.endWait() || e.endWait() {
		t.Error("a wait ends once")
	}
}

// TestEndsAreCountedOnce however often the same end is seen.
func TestEndsAreCountedOnce(t *testing.T) {
	e := newEntry(record{})
	first := &runtime.Status{FinishedAt: time.Unix(1, 0), ExitCode: 3}
	if !e.settle(first) || e.settle(first) {
		t.Error("an end is settled once")
	}
	e.tell(first)
	if e.ends != 1 || e.last.code != 3 {
		t.Errorf("%d %+v", e.ends, e.last)
	}
	if !e.settle(&runtime.Status{FinishedAt: time.Unix(2, 0)}) {
		t.Error("another end is another")
	}
}

func TestChoose(t *testing.T) {
	out := "UID   PID  CMD\nroot    1  /sbin/init a b\nroot   42  sleep 1\n"
	r, err := choose(out, []int{42, 1})
	if err != nil || len(r.GetProcesses()) != 2 || r.GetProcesses()[0].GetColumns()[2] != "/sbin/init a b" {
		t.Errorf("%v %v", r, err)
	}
	if r, err := choose(out, []int{7}); err != nil || len(r.GetProcesses()) != 0 {
		t.Errorf("%v %v", r, err)
	}
	if _, err := choose("CMD\nx\n", nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestRemovedIsNotFound: what waited for a container while it was removed must
// not write its record again.
func TestRemovedIsNotFound(t *testing.T) {
	e := newEntry(record{ID: "a", Name: "one"})
	e.gone = true
	if _, err := e.lock(t.Context()); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	s := &Server{config: Config{Root: t.TempDir()}}
	if err := s.update(e, func(*record) {}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestPatience(t *testing.T) {
	none, some, ever := int64(0), int64(3), int64(-1)
	for _, test := range []struct {
		asked, kept *int64
		want        int64
	}{
		{nil, nil, defaultStopTimeout},
		{nil, &none, 0},
		{nil, &some, 3},
		{nil, &ever, math.MaxInt64},
		{&none, &some, 0},
		{&ever, &some, math.MaxInt64},
	} {
		got := (&Server{}).patience(target{e: newEntry(record{StopTimeout: test.kept})}, test.asked)
		if got != test.want {
			t.Errorf("%v %v: %d, want %d", test.asked, test.kept, got, test.want)
		}
	}
}

// TestFailedRestartsWaitLonger: a container that ran long and cannot be started
// again is not tried every moment.
func TestFailedRestartsWaitLonger(t *testing.T) {
	e := newEntry(record{Started: true, Restart: restart.Policy{Name: restart.Always}})
	st := &runtime.Status{State: runtime.Exited, StartedAt: time.Unix(1000, 0), FinishedAt: time.Unix(2000, 0)}
	var waits []time.Duration
	for range 4 {
		wait, again := e.rec.Restart.After(e.exit(st))
		if !again {
			t.Fatal("it is given up")
		}
		waits = append(waits, wait)
		e.rec.Wait = wait
		e.unsettle()
	}
	if !slices.Equal(waits, []time.Duration{1e8, 2e8, 4e8, 8e8}) {
		t.Errorf("%v", waits)
	}
	e.begun()
	if wait, _ := e.rec.Restart.After(e.exit(st)); wait != 1e8 {
		t.Errorf("%v after a long run", wait)
	}
}

// TestHealthGoesOn from what an earlier daemon knew, of the same run alone.
func TestHealthGoesOn(t *testing.T) {
	s := &Server{config: Config{State: t.TempDir()}}
	if err := os.MkdirAll(filepath.Dir(s.healthPath("")), 0o700); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	known := health.State{Status: health.Healthy, FailingStreak: 2, Log: []health.Result{{ExitCode: 1, Output: "ill"}}}
	if err := linux.SaveRecord(s.healthPath("a"), probed{began, known}, linux.SurviveProcess); err != nil {
		t.Fatal(err)
	}
	e := newEntry(record{ID: "a", Health: &health.Config{}, HealthStatus: health.Healthy})
	s.loadHealth(t.Context(), e)
	for _, got := range []health.State{e.healthOf(began), e.healthState()} {
		if got.FailingStreak != 2 || len(got.Log) != 1 || got.Log[0].Output != "ill" {
			t.Errorf("%+v", got)
		}
	}
	if got := e.healthOf(began.Add(time.Second)); got.Status != health.Healthy || got.FailingStreak != 0 || got.Log != nil {
		t.Errorf("another run: %+v", got)
	}
}

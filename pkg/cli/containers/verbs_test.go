package containers

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// now is when the lists of these tests are printed.
func now() time.Time { return time.Unix(1_000_000, 0).UTC() }

func before(d time.Duration) int64 { return now().Add(-d).UnixNano() }

func some() []*nodev1.Container {
	return []*nodev1.Container{
		{
			Id: strings.Repeat("a", 64), Name: "web", Image: "docker.io/library/nginx:1", ImageId: "sha256:1234567890", Command: []string{"nginx", "-g", "daemon off;"},
			CreatedAt: before(time.Hour), StartedAt: before(3 * time.Minute), State: "running", Health: "healthy",
			Ports:  []*nodev1.Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 443, Protocol: "tcp"}},
			Labels: map[string]string{"tier": "front"}, Networks: []string{"app"},
			Mounts: []*nodev1.Mount{{Type: "volume", Source: "data", Destination: "/data"}},
		},
		{
			Id: strings.Repeat("b", 64), Name: "job", Image: "busybox", Command: []string{"sh"}, CreatedAt: before(time.Minute), FinishedAt: before(5 * time.Second),
			State: "exited", ExitCode: 3,
		},
		{
			Id: strings.Repeat("c", 64), Name: "main", Pod: "db-0", PodId: "dddd", Namespace: "shop", Kubernetes: true, Image: "registry.example/db", CreatedAt: before(48 * time.Hour),
			StartedAt: before(48 * time.Hour), State: "paused",
		},
	}
}

func TestPS(t *testing.T) {
	for name, test := range map[string]struct {
		options psOptions
		want    string
	}{
		"table": {psOptions{last: -1}, `CONTAINER ID   IMAGE                 COMMAND                  CREATED        STATUS                   PORTS                                              NAMES       NAMESPACE
aaaaaaaaaaaa   nginx:1               "nginx -g 'daemon of…"  About an hour ago   Up 3 minutes (healthy)   0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp   web         
cccccccccccc   registry.example/db   ""                       2 days ago     Up 2 days (Paused)                                                          db-0/main   shop
`},
		"all":        {psOptions{last: -1, all: true, Options: output.Options{Format: "{{.Names}} {{.Status}}"}}, "job Exited (3) 5 seconds ago\nweb Up 3 minutes (healthy)\ndb-0/main Up 2 days (Paused)\n"},
		"latest":     {psOptions{latest: true, Options: output.Options{Format: "{{.Names}}"}}, "job\n"},
		"label":      {psOptions{last: -1, filters: []string{"label=tier=front"}, Options: output.Options{Format: `{{.Label "tier"}} {{.LocalVolumes}}`}}, "front 1\n"},
		"quiet":      {psOptions{last: -1, Options: output.Options{Quiet: true}}, "aaaaaaaaaaaa\ncccccccccccc\n"},
		"status":     {psOptions{last: -1, filters: []string{"status=exited", "status=paused"}, Options: output.Options{Format: "{{.Names}}"}}, "job\ndb-0/main\n"},
		"ancestor":   {psOptions{last: -1, filters: []string{"ancestor=nginx"}, Options: output.Options{Format: "{{.Names}}"}}, "web\n"},
		"image id":   {psOptions{last: -1, filters: []string{"ancestor=12345"}, Options: output.Options{Format: "{{.Names}}"}}, "web\n"},
		"kubernetes": {psOptions{last: -1, all: true, filters: []string{"kubernetes=false", "name=^/?[jw]"}, Options: output.Options{Format: "{{.Names}}"}}, "job\nweb\n"},
		"port":       {psOptions{last: -1, filters: []string{"publish=8080"}, Options: output.Options{Format: "{{.Names}}"}}, "web\n"},
		"exposed":    {psOptions{last: -1, filters: []string{"expose=443/tcp", "volume=data"}, Options: output.Options{Format: "{{.Names}}"}}, "web\n"},
		"namespace":  {psOptions{last: -1, filters: []string{"namespace=shop", "pod=db-0"}, Options: output.Options{Format: "{{.Names}}"}}, "db-0/main\n"},
		"order":      {psOptions{last: -1, all: true, filters: []string{"since=web"}, Options: output.Options{Format: "{{.Names}}"}}, "job\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := parseFilters(test.options.filters)
			if err != nil {
				t.Fatal(err)
			}
			chosen, err := test.options.choose(some(), f)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := test.options.list(chosen, now()).Print(&out, test.options.Options); err != nil {
				t.Fatal(err)
			}
			// How wide columns are is the business of package output.
			squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
			if diff := cmp.Diff(squeeze(test.want), squeeze(out.String())); diff != "" {
				t.Errorf("printed (-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"x", "color=red", "status=asleep", "exited=x", "before=nothing", "name=[", "publish=x", "kubernetes=perhaps"} {
		f, err := parseFilters([]string{bad})
		if err == nil {
			_, err = f.matcher(some())
		}
		if err == nil {
			t.Errorf("filter %s is taken", bad)
		}
	}
}

func TestLogLines(t *testing.T) {
	var out, errs bytes.Buffer
	w := logWriter{out: &out, err: &errs, times: true}
	for _, l := range []*nodev1.LogLine{
		{Time: 1e9, Text: []byte("be"), Partial: true}, {Time: 2e9, Text: []byte("oops"), Stderr: true}, {Time: 3e9, Text: []byte("gun")}, {Time: 4e9, Text: []byte("next")},
	} {
		if err := w.write(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	if want := "1970-01-01T00:00:01.000000000Z begun\n1970-01-01T00:00:04.000000000Z next\n"; out.String() != want {
		t.Errorf("stdout %q, want %q", out.String(), want)
	}
	if want := "1970-01-01T00:00:02.000000000Z oops\n"; errs.String() != want {
		t.Errorf("stderr %q, want %q", errs.String(), want)
	}
}

// countedWriter counts how often it is written to.
type countedWriter struct{ writes int }

func (c *countedWriter) Write(p []byte) (int, error) {
	c.writes++
	return len(p), nil
}

// TestLogWrites: a log of a gigabyte is not a system call for each of its lines.
func TestLogWrites(t *testing.T) {
	var out countedWriter
	w := logWriter{out: &out, err: io.Discard}
	for range 1000 {
		if err := w.write(&nodev1.LogLine{Text: []byte("line")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil || out.writes != 1 {
		t.Errorf("%d writes, %v", out.writes, err)
	}
}

func TestStats(t *testing.T) {
	o := statsOptions{}
	got := o.row(&nodev1.Usage{Id: "x", Time: 1e9, Cpu: 1e9}, &nodev1.Usage{
		Id: strings.Repeat("e", 64), Name: "main", Pod: "db-0", Namespace: "shop", Time: 2e9, Cpu: 25e8, Memory: 50 << 20, MemoryLimit: 200 << 20,
		NetworkReceived: 1500, BlockWritten: 4096, Pids: 7,
	}, 1<<30)
	want := usage{
		Container: strings.Repeat("e", 64), ID: "eeeeeeeeeeee", Name: "db-0/main", CPUPerc: "150.00%", MemUsage: "50MiB / 200MiB", MemPerc: "25.00%",
		NetIO: "1.5kB / 0B", BlockIO: "0B / 4.1kB", PIDs: "7",
	}
	if got != want {
		t.Errorf("row is %+v, want %+v", got, want)
	}
	if got := o.row(nil, &nodev1.Usage{Time: 1e9, Memory: 1 << 28}, 1<<30); got.CPUPerc != "--" || got.MemUsage != "256MiB / 1GiB" || got.MemPerc != "25.00%" {
		t.Errorf("without an earlier one: %+v", got)
	}
}

func TestScreen(t *testing.T) {
	text := "0123456789\nab\nc\n"
	for want, size := range map[string][2]int{
		"\x1b[H01234567…\x1b[K\nab\x1b[K\n\x1b[J":           {9, 3},
		"\x1b[H0123456789\x1b[K\nab\x1b[K\nc\x1b[K\n\x1b[J": {0, 0},
	} {
		if got := string(screen(text, size[0], size[1])); got != want {
			t.Errorf("%v: %q, want %q", size, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for message, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`:                    127,
		`runc create failed: exec /x: no such file or directory`:           127,
		`container init: exec: "/etc": is a directory`:                     126,
		`starting container process caused: exec: "/x": permission denied`: 126,
		`container "web" exists already`:                                   125,
		`cannot run "/etc": is a directory`:                                126,
		`cannot run "x": no such file or directory`:                        127,
		`open /x: permission denied`:                                       125,
	} {
		exit := new(client.ExitError)
		if err := startError(errors.New(message)); !errors.As(err, &exit) || exit.Code != want {
			t.Errorf("%s: %v, want %d", message, exit.Code, want)
		}
	}
	exit := new(client.ExitError)
	if err := exitStatus(&nodev1.Exit{Code: 7}); !errors.As(err, &exit) || exit.Code != 7 || exit.Err != nil {
		t.Errorf("%+v", exit)
	}
	if err := exitStatus(&nodev1.Exit{}); err != nil {
		t.Error(err)
	}
}

func TestPorts(t *testing.T) {
	ports := []*nodev1.Port{{HostIp: "127.0.0.1", HostPort: 1, ContainerPort: 80}, {HostPort: 2, ContainerPort: 53, Protocol: "UDP"}, {ContainerPort: 9}}
	if diff := cmp.Diff([]string{"80/tcp -> 127.0.0.1:1", "53/udp -> 0.0.0.0:2", "53/udp -> [::]:2"}, portLines(ports, "")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:1"}, portLines(ports, "80/tcp")); diff != "" {
		t.Error(diff)
	}
}

func TestEvents(t *testing.T) {
	e := &nodev1.Event{Time: 1e9, Type: "container", Action: "die", Id: "abc", Name: "web", Attributes: map[string]string{"exitCode": "3", "image": "busybox"}}
	for filter, want := range map[string]bool{
		"type=container": true, "type=image": false, "event=die": true, "container=web": true, "container=ab": true, "container=db": false,
		"image=docker.io/library/busybox": true, "label=exitCode=3": true, "label=exitCode=4": false, "label=none": false,
	} {
		f, err := parseEventFilters([]string{filter})
		if err != nil || f.match(e) != want {
			t.Errorf("%s: %v, %v", filter, f.match(e), err)
		}
	}
	var out bytes.Buffer
	if err := printEvent(&out, "", e); err != nil || !strings.HasSuffix(out.String(), " container die abc (exitCode=3, image=busybox, name=web)\n") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := printEvent(&out, "{{.Action}} {{.Attributes.exitCode}}", e); err != nil || out.String() != "die 3\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for _, bad := range []string{"x", "color=red"} {
		if _, err := parseEventFilters([]string{bad}); err == nil {
			t.Errorf("filter %s is taken", bad)
		}
	}
}

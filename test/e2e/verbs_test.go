package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-node/cri-node/test/e2e/image"
)

func TestVerbsTerminal(t *testing.T) {
	v := onVerbs(t)
	s := v.open("run", "-it", "--rm", "IMAGE", "sh")
	s.send("tty; echo $((40+2))\n")
	s.expect("/dev/pts/")
	s.expect("42")
	s.send("stty size\n")
	s.expect("24 80")
	v.must(pty.Setsize(s.tty, &pty.Winsize{Cols: 101, Rows: 33}))
	v.waitFor("the new size", func() bool {
		s.send("stty size\n")
		return strings.Contains(s.text(s.at), "33 101")
	})
	// ctrl-c is the container's.
	s.send("sleep 1000\n")
	s.expect("sleep 1000")
	s.send("\x03")
	s.send("echo still-$((1+1))\n")
	s.expect("still-2")
	s.send("exit 9\n")
	if code := s.code(); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
	// ctrl-d ends a shell, with --rm nothing is left.
	s = v.open("run", "-it", "--rm", "--name", "gone", "IMAGE", "sh")
	s.send("echo ready-$((1+1))\n")
	s.expect("ready-2")
	s.send("\x04")
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d after ctrl-d", code)
	}
	if out := v.ok("ps", "-aq"); out != "" {
		t.Errorf("left: %s", out)
	}
}

func TestVerbsDetach(t *testing.T) {
	v := onVerbs(t)
	s := v.open("run", "-it", "--name", "shell", "IMAGE", "sh")
	s.send("N=$((20+3)); echo set-$N\n")
	s.expect("set-23")
	s.send("\x10\x11")
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d after leaving", code)
	}
	if out := v.ok("ps", "--format", "{{.Names}} {{.State}}"); out != "shell running" {
		t.Errorf("after leaving: %q", out)
	}
	s = v.open("attach", "shell")
	s.send("echo back-$N\n")
	s.expect("back-23")
	s.send("exit 5\n")
	if code := s.code(); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	if got := v.run("attach", "shell"); got.code != 1 || !strings.Contains(got.err, "start it first") {
		t.Errorf("attach to a stopped container: %+v", got)
	}
	s = v.open("start", "-ai", "--detach-keys", "ctrl-x,x", "shell")
	s.send("echo again-$((1+1))\n")
	s.expect("again-2")
	s.send("\x18x")
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d after leaving by other keys", code)
	}
	v.eventually("running", "inspect", "-f", "{{.State.Status}}", "shell")
}

func TestVerbsExecTerminal(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-itd", "--name", "box", "IMAGE")
	s := v.open("exec", "-it", "-e", "WHO=me", "box", "sh")
	s.send("tty; echo $WHO-$((1+1)); stty size\n")
	s.expect("/dev/pts/")
	s.expect("me-2")
	s.expect("24 80")
	v.must(pty.Setsize(s.tty, &pty.Winsize{Cols: 90, Rows: 30}))
	v.waitFor("the new size", func() bool {
		s.send("stty size\n")
		return strings.Contains(s.text(s.at), "30 90")
	})
	s.send("exit 3\n")
	if code := s.code(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if out := v.ok("exec", "-d", "box", "sh", "-c", "echo detached >/tmp/mark"); out != "" {
		t.Errorf("exec -d prints %q", out)
	}
	v.eventually("detached", "exec", "box", "cat", "/tmp/mark")
	if got := v.run("exec", "-it", "box", "sh"); got.code != 1 || !strings.Contains(got.err, "not a terminal") {
		t.Errorf("exec -it without a terminal: %+v", got)
	}
}

func TestVerbsPipes(t *testing.T) {
	v := onVerbs(t)
	data := bytes.Repeat([]byte("0123456789abcdef\x00\xff\r\n"), 400_000)
	got := v.pipe(string(data), "run", "-i", "--rm", "IMAGE", "cat")
	if sha256.Sum256([]byte(got.out)) != sha256.Sum256(data) || got.code != 0 {
		t.Errorf("%d of %d bytes came back, exit code %d, %s", len(got.out), len(data), got.code, got.err)
	}
	v.ok("run", "-d", "--name", "box", "IMAGE", "sleep", "1000")
	got = v.pipe(string(data), "exec", "-i", "box", "sh", "-c", "cat >/tmp/data; wc -c </tmp/data")
	if strings.TrimSpace(got.out) != "8000000" || got.code != 0 {
		t.Errorf("exec: %+v", got)
	}
	// Who reads no more does not hold up who writes.
	if got := v.pipe(string(data), "exec", "-i", "box", "head", "-c", "4"); got.out != "0123" || got.code != 0 {
		t.Errorf("head: %+v", got)
	}
}

func TestVerbsSignals(t *testing.T) {
	v := onVerbs(t)
	cmd := v.command("run", "--rm", "--name", "trap", "IMAGE", "sh", "-c",
		"trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
	var out bytes.Buffer
	cmd.Stdout = &out
	v.must(cmd.Start())
	v.eventually("ready", "logs", "trap")
	v.must(cmd.Process.Signal(syscall.SIGTERM))
	if code := v.codeOf(cmd.Wait()); code != 5 || !strings.Contains(out.String(), "caught") {
		t.Errorf("exit code %d, %q", code, out.String())
	}
	// Who does not listen is left after the third.
	cmd = v.command("run", "--name", "deaf", "IMAGE", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.1; done")
	v.must(cmd.Start())
	v.eventually("ready", "logs", "deaf")
	for range 3 {
		v.must(cmd.Process.Signal(syscall.SIGINT))
		time.Sleep(100 * time.Millisecond)
	}
	if code := v.codeOf(cmd.Wait()); code == 0 {
		t.Error("left with exit code 0")
	}
	v.eventually("running", "inspect", "-f", "{{.State.Status}}", "deaf")
}

func TestVerbsPS(t *testing.T) {
	v := onVerbs(t)
	first := v.ok("run", "-d", "--name", "first", "-l", "tier=back", "IMAGE", "sleep", "1000")
	v.run("run", "--name", "second", "-l", "tier=front", "IMAGE", "sh", "-c", "exit 3")
	v.ok("create", "--name", "third", "--network", "app", "IMAGE", "true")
	for line, want := range map[string]string{
		"ps --format {{.Names}}":                                  "first",
		"ps -a --format {{.Names}}":                               "third\nsecond\nfirst",
		"ps -q":                                                   first[:12],
		"ps -q --no-trunc":                                        first,
		"ps -l --format {{.Names}}":                               "third",
		"ps -n 2 --format {{.Names}}":                             "third\nsecond",
		"ps --filter status=exited --format {{.Names}}":           "second",
		"ps -a --filter exited=3 --format {{.Names}}":             "second",
		"ps -a --filter label=tier --format {{.Names}}":           "second\nfirst",
		"ps -a --filter label=tier=back --format {{.Names}}":      "first",
		"ps -a --filter name=ir --format {{.Names}}":              "third\nfirst",
		"ps -a --filter before=second --format {{.Names}}":        "first",
		"ps -a --filter since=first --format {{.Names}}":          "third\nsecond",
		"ps -a --filter network=app --format {{.Names}}":          "third",
		"ps -a --filter ancestor=IMAGE --format {{.Names}}":       "third\nsecond\nfirst",
		"ps -a --filter ancestor=nothing --format {{.Names}}":     "",
		"ps -a --filter id=" + first[:6] + " --format {{.State}}": "running",
	} {
		if got := v.ok(strings.Fields(line)...); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	table := v.ok("ps", "-a")
	for _, want := range []string{"CONTAINER ID", "COMMAND", `"sh -c 'exit 3'"`, "Exited (3)", "Up ", "Created"} {
		if !strings.Contains(table, want) {
			t.Errorf("ps -a has no %q:\n%s", want, table)
		}
	}
	var all []struct{ ID, Name, State string }
	if err := json.Unmarshal([]byte(v.ok("ps", "-a", "-o", "json")), &all); err != nil || len(all) != 3 {
		t.Errorf("-o json: %v, %v", all, err)
	}
	for _, bad := range []string{"ps --filter nothing", "ps --filter color=red", "ps --filter status=asleep", "ps --format {{", "ps extra"} {
		if got := v.run(strings.Fields(bad)...); got.code != 1 {
			t.Errorf("%s: %+v", bad, got)
		}
	}
	if got := v.ok("__complete", "stop", "fi"); !strings.Contains(got, "first") {
		t.Errorf("completion: %q", got)
	}
}

// TestVerbsKubernetes: what kubelet has made is shown, by pod, and protected.
func TestVerbsKubernetes(t *testing.T) {
	v := onVerbs(t)
	p := v.runPod("")
	c := v.start(p, "main", []string{"sleep", "1000"})
	name := v.ok("ps", "--filter", "id="+c.id, "--format", "{{.Names}}")
	if !strings.HasSuffix(name, "/main") {
		t.Errorf("its name is %q", name)
	}
	if !strings.Contains(v.ok("ps"), "NAMESPACE") {
		t.Error("no column NAMESPACE")
	}
	if got := v.ok("exec", name, "echo", "in", "there"); got != "in there" {
		t.Errorf("exec: %q", got)
	}
	for _, verb := range []string{"stop", "kill", "rm", "pause", "restart"} {
		if got := v.run(verb, name); got.code != 1 || !strings.Contains(got.err, "force") {
			t.Errorf("%s: %+v", verb, got)
		}
	}
	if got := v.ok("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", c.id); !strings.HasSuffix(got, " 1") {
		t.Errorf("stats: %q", got)
	}
}

// TestVerbsPull: an image that is not there is got first.
func TestVerbsPull(t *testing.T) {
	v := onVerbs(t)
	img, err := image.Build(image.Spec{Layers: [][]image.File{shared.busybox}, Config: v1.Config{
		Cmd: []string{"echo", "of the image"}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
	}})
	v.must(err)
	_, err = shared.registry.Push(t.Context(), "e2e/pulled:1", img)
	v.must(err)
	ref := shared.registry.Ref("e2e/pulled:1")
	if got := v.run("run", "--rm", "--pull", "never", ref); got.code != 125 {
		t.Errorf("never: %+v", got)
	}
	got := v.run("run", "--rm", ref)
	if got.code != 0 || got.out != "of the image\n" || !strings.Contains(got.err, "Unable to find image '"+ref+"' locally") {
		t.Errorf("missing: %+v", got)
	}
	if got = v.run("run", "--rm", "-q", "--pull", "always", ref); got.code != 0 || got.out != "of the image\n" || got.err != "" {
		t.Errorf("always: %+v", got)
	}
	// The ports it exposes get one of the machine each.
	v.ok("create", "--name", "ports", "-P", ref)
	if out := v.ok("ps", "-a", "--format", "{{.Ports}}"); !strings.HasPrefix(out, "0.0.0.0:") || !strings.HasSuffix(out, "->80/tcp") {
		t.Errorf("ports: %q", out)
	}
	v.ok("rm", "ports")
	v.ok("rmi", ref)
}

func TestVerbsLogs(t *testing.T) {
	v := onVerbs(t)
	v.ok("run", "-d", "--name", "talker", "IMAGE", "sh", "-c", "echo one; echo two; echo wrong >&2; sleep 1; echo three; sleep 1000")
	v.eventually("two", "logs", "talker")
	follow := v.command("logs", "-f", "--tail", "1", "talker")
	var out bytes.Buffer
	follow.Stdout = &out
	v.must(follow.Start())
	v.eventually("three", "logs", "talker")
	v.ok("rm", "-f", "talker")
	if code := v.codeOf(follow.Wait()); code != 0 || !strings.HasSuffix(out.String(), "three\n") || strings.Contains(out.String(), "one") {
		t.Errorf("follow: exit code %d, %q", code, out.String())
	}
	v.ok("run", "--name", "done", "IMAGE", "sh", "-c", "echo one; echo wrong >&2; printf 'no end'")
	got := v.run("logs", "-t", "done")
	first, _, _ := strings.Cut(got.out, "\n")
	stamp, text, _ := strings.Cut(first, " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || text != "one" || !strings.HasSuffix(got.err, " wrong\n") {
		t.Errorf("logs -t: %+v, %v", got, err)
	}
	if out := v.ok("logs", "--since", "1h", "-n", "1", "done"); !strings.HasPrefix(out, "no end") {
		t.Errorf("the last line is %q", out)
	}
	if got := v.run("logs", "--since", "yesterday", "done"); got.code != 1 {
		t.Errorf("%+v", got)
	}
}

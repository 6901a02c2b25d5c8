package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dockerLine is a command line of docker and what it does there.
type dockerLine struct {
	line  string // words, with ' around some
	stdin string
	// out is all of stdout; a * at an end stands for anything.
	out string
	// err is part of stderr.
	err  string
	code int
}

// dockerLines are common command lines of docker, in the order in which somebody
// might type them.
func dockerLines() []dockerLine {
	return []dockerLine{
		{line: "run --rm IMAGE echo hello world", out: "hello world\n"},
		{line: "run --rm IMAGE sh -c 'echo out; echo problem >&2; exit 3'", out: "out\n", err: "problem", code: 3},
		{line: "run -i --rm IMAGE cat", stdin: "through a pipe\n", out: "through a pipe\n"},
		{line: "run --rm IMAGE no-such-command", err: "no-such-command", code: 127},
		{line: "run --rm IMAGE /etc", err: "/etc", code: 126},
		{line: "run --rm --init IMAGE sh -c 'kill -9 $$'", code: 137},
		{line: "run --rm --pull never 127.0.0.1:1/no/such:image", err: "no/such", code: 125},
		{line: "run --surprise IMAGE", err: "unknown flag: --surprise", code: 125},
		{line: "run -it --rm IMAGE sh", err: "not a terminal", code: 1},
		{line: "run --rm -e A=1 -e FROM_CLIENT -e MISSING IMAGE sh -c 'echo $A $FROM_CLIENT ${MISSING-unset}'", out: "1 here unset\n"},
		{line: "run --rm --entrypoint echo IMAGE instead", out: "instead\n"},
		{line: "run --rm -w /srv/new -u 1234:4321 IMAGE sh -c 'pwd; id -u; id -g'", out: "/srv/new\n1234\n4321\n"},
		{line: "run --rm -h box IMAGE hostname", out: "box\n"},
		{line: "run --rm --read-only IMAGE touch /x", err: "Read-only file system", code: 1},
		{line: "run --rm --network none IMAGE sh -c 'ls /sys/class/net'", out: "lo\n"},
		{line: "run --rm --tmpfs /scratch:size=1m,mode=700 IMAGE stat -c %a /scratch", out: "700\n"},
		{line: "run --rm --cap-drop ALL IMAGE sh -c 'grep CapEff /proc/self/status'", out: "CapEff:\t0000000000000000\n"},
		{line: "run --rm --add-host db:10.1.2.3 IMAGE grep 10.1.2.3 /etc/hosts", out: "10.1.2.3*db\n"},
		{line: "run --rm -u 12345 --group-add 777 IMAGE id -G", out: "0 777\n"},
		{line: "run --rm --pids-limit 33 IMAGE sh -c 'cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true'", out: "33\n"},
		{line: "run --rm -m 32m IMAGE sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true'", out: "33554432\n"},
		{line: "run --rm --ulimit nofile=99:100 IMAGE sh -c 'ulimit -n'", out: "99\n"},
		{line: "run --rm --sysctl net.ipv4.ip_unprivileged_port_start=77 IMAGE cat /proc/sys/net/ipv4/ip_unprivileged_port_start", out: "77\n"},
		{line: "run --rm --userns auto IMAGE sh -c 'read a b c </proc/self/uid_map; echo $a $c'", out: "0 65536\n"},
		{line: "run --rm --link db:db IMAGE true", err: "--network NAME", code: 125},
		{line: "run -d --name web -l tier=front IMAGE sleep 1000", out: "*\n"},
		{line: "run --name web IMAGE true", err: "cri-node rm web", code: 125},
		{line: "ps -q --no-trunc --filter name=web --filter label=tier=front --format {{.Names}}", out: "web\n"},
		{line: "exec web sh -c 'exit 4'", code: 4},
		{line: "exec web no-such-command", err: "no-such-command", code: 127},
		{line: "exec -i -w /tmp -e B=2 web sh -c 'cat; pwd; echo $B'", stdin: "in\n", out: "in\n/tmp\n2\n"},
		{line: "inspect -f '{{.State.Running}} {{.Name}} {{json .Config.Cmd}}' web", out: "true /web [\"sleep\",\"1000\"]\n"},
		{line: "inspect -f '{{json .Config.Labels}}' web", out: "{\"tier\":\"front\"}\n"},
		{line: "ps --filter name=web --format {{.Labels}}", out: "tier=front\n"},
		{line: "rm web", err: "web", code: 1},
		{line: "pause web", out: "web\n"},
		{line: "unpause web", out: "web\n"},
		{line: "stop -t 0 web", out: "web\n"},
		{line: "exec web true", err: "web", code: 1},
		{line: "wait web", out: "137\n"},
		{line: "start web", out: "web\n"},
		{line: "kill -s KILL web", out: "web\n"},
		{line: "rm -f web no-such", out: "web\n", err: "no-such"},
		{line: "rm web", err: "web", code: 1},
		{line: "stop no-such", err: "no-such", code: 1},
		{line: "inspect no-such", out: "[]\n", err: "no-such", code: 1},
		{line: "create --name later IMAGE sh -c 'echo late; exit 6'", out: "*\n"},
		{line: "start -a later", out: "late\n", code: 6},
		{line: "logs later", out: "late\n"},
		{line: "logs --tail 0 later"},
		{line: "rename later sooner"},
		{line: "rm -v sooner", out: "sooner\n"},
		{line: "rm", err: "requires at least 1 argument", code: 1},
		{line: "sotp web", err: `"cri-node stop"`, code: 1},
		{line: "ps --surprise", err: "unknown flag", code: 125},
		{line: "run --rm --cgroupns private --disable-content-trust IMAGE echo fine", out: "fine\n"},
		{line: "run --device-read-bps /dev/sda:1mb IMAGE", err: "--device-read-bps is not supported", code: 125},
		{line: "update --pids-limit 3 web", err: "cannot be changed", code: 125},
		{line: "version --format {{.Server.Os}}", out: "linux\n"},
		{line: "--version", out: "cri-node *\n"},
		{line: "system events --since 1h --until 0s --filter event=rename --format {{.Name}}", out: "*"},
		{line: "volume create data", out: "data\n"},
		{line: "run --rm -v data:/data IMAGE sh -c 'echo kept >/data/file'"},
		{line: "run --rm -v data:/data:ro IMAGE cat /data/file", out: "kept\n"},
		{line: "volume prune -f", out: "Total reclaimed space: *"},
		{line: "volume inspect -f {{.Name}} data no-such", out: "data\n", err: "no such volume: no-such", code: 1},
		{line: "volume rm data", out: "data\n"},
		{line: "volume create other", out: "other\n"},
		{line: "volume prune --all --force", out: "Deleted Volumes:\nother\n\nTotal reclaimed space: *"},
		{line: "volume prune --filter color=red", err: "it can be label, until", code: 1},
		{line: "image prune -f", out: "*B\n"}, // Total reclaimed space: 438kB
		{line: "volume ls data", err: "accepts no arguments", code: 1},
	}
}

// words splits a line as a shell does, where there is no more than ' in it.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

// likewise compares with a pattern that may have one *.
func likewise(got, want string) bool {
	before, after, any := strings.Cut(want, "*")
	if !any {
		return got == want
	}
	return strings.HasPrefix(got, before) && strings.HasSuffix(got, after) && len(got) >= len(before)+len(after)
}

func TestVerbsAsDocker(t *testing.T) {
	v := onVerbs(t)
	for _, l := range dockerLines() {
		got := v.pipe(l.stdin, words(l.line)...)
		if got.code != l.code || !likewise(got.out, l.out) || !strings.Contains(got.err, l.err) {
			t.Errorf("%s\nexit code %d, want %d\nstdout %q, want %q\nstderr %q, want %q", l.line, got.code, l.code, got.out, l.out, got.err, l.err)
		}
	}
}

func TestVerbsCopy(t *testing.T) {
	v := onVerbs(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		v.must(os.MkdirAll(filepath.Dir(path), 0o755))
		v.must(os.WriteFile(path, []byte(text), 0o640))
		return path
	}
	read := func(path string) string {
		data, err := os.ReadFile(path)
		v.must(err)
		return string(data)
	}
	write("site/index.html", "<p>hi</p>")
	file := write("file", "a file")
	v.ok("run", "-d", "--name", "box", "-v", "data:/data", "IMAGE", "sleep", "1000")
	for _, state := range []string{"running", "stopped"} {
		if state == "stopped" {
			v.ok("stop", "-t", "0", "box")
		}
		// docker's rules, one by one
		v.ok("cp", file, "box:/tmp")
		v.ok("cp", file, "box:/tmp/renamed")
		v.ok("cp", filepath.Join(dir, "site"), "box:/tmp")
		v.ok("cp", filepath.Join(dir, "site"), "box:/tmp/new-"+state)
		v.ok("cp", filepath.Join(dir, "site")+"/.", "box:/data")
		if got := v.run("cp", file, "box:/nowhere/"); got.code != 1 || !strings.Contains(got.err, "must exist") {
			t.Errorf("%s: %+v", state, got)
		}
		if got := v.run("cp", filepath.Join(dir, "site"), "box:/tmp/renamed"); got.code != 1 {
			t.Errorf("%s: a directory over a file: %+v", state, got)
		}
		for from, want := range map[string]string{
			"/tmp/file": "a file", "/tmp/renamed": "a file", "/tmp/site/index.html": "<p>hi</p>",
			"/tmp/new-" + state + "/index.html": "<p>hi</p>", "/data/index.html": "<p>hi</p>",
		} {
			to := filepath.Join(dir, "back")
			v.ok("cp", "box:"+from, to)
			if got := read(to); got != want {
				t.Errorf("%s: %s is %q, want %q", state, from, got, want)
			}
		}
		out := filepath.Join(dir, "out-"+state)
		v.ok("cp", "box:/data", out)
		if got := read(filepath.Join(out, "index.html")); got != "<p>hi</p>" {
			t.Errorf("%s: %q", state, got)
		}
		v.must(os.Mkdir(filepath.Join(dir, "into-"+state), 0o755))
		v.ok("cp", "box:/tmp/site", filepath.Join(dir, "into-"+state))
		read(filepath.Join(dir, "into-"+state, "site", "index.html"))
		// a tar out and in
		archive := v.run("cp", "box:/tmp/site", "-")
		if back := v.pipe(archive.out, "cp", "-", "box:/srv"); archive.code == 0 && back.code == 0 {
			t.Errorf("unpacked in a directory that does not exist: %+v", back)
		}
		if back := v.pipe(archive.out, "cp", "-", "box:/home"); archive.code != 0 || back.code != 0 {
			t.Errorf("%s: tar: %+v %+v", state, archive.err, back)
		}
		v.ok("cp", "box:/home/site/index.html", filepath.Join(dir, "again"))
	}
	if got := v.run("cp", "box:/no/such", dir); got.code != 1 || !strings.Contains(got.err, "/no/such") {
		t.Errorf("%+v", got)
	}
}

// TestVerbsCopyLinks: what a container has for links leads nowhere on the machine.
func TestVerbsCopyLinks(t *testing.T) {
	v := onVerbs(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	v.must(os.WriteFile(secret, []byte("of the machine"), 0o600))
	v.ok("run", "-d", "--name", "evil", "IMAGE", "sh", "-c", "ln -s "+dir+" /out; ln -s /proc/1/root /up; ln -s "+secret+" /link; sleep 1000")
	v.eventually("link", "exec", "evil", "ls", "/")
	for _, from := range []string{"evil:/out/secret", "evil:/up" + secret} {
		if got := v.run("cp", from, filepath.Join(dir, "stolen")); got.code == 0 {
			t.Errorf("%s was copied: %+v", from, got)
		}
	}
	v.run("cp", "-L", "evil:/link", filepath.Join(dir, "stolen"))
	v.pipe("", "cp", secret, "evil:/out/planted")
	for _, name := range []string{"stolen", "planted"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s: %q", name, data)
		}
	}
}

package compose

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write makes a Compose file of services in YAML's short form.
func (p *person) write(services string) {
	p.Helper()
	p.must(os.WriteFile(filepath.Join(p.dir, "compose.yaml"), []byte("name: faulty\nservices: {"+services+"}\n"), 0o600))
}

const (
	idle  = "image: " + base + ", init: true, command: [sleep, inf]"
	after = "a: {" + idle + ", depends_on: {b: {condition: "
)

// faults: what is wrong is said in words that name it, with nothing left of what
// could not be made.
func (p *person) faults() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	p.must(err)
	defer l.Close()
	busy := fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	p.must(err)
	fixed := free.Addr().String()
	p.must(free.Close())
	for _, test := range []struct {
		name, services, args string
		want                 []string
	}{
		{"unknown service", "a: {" + idle + "}", "up -d nope", []string{"no such service: nope"}},
		{"unknown service's logs", "a: {" + idle + "}", "logs nope", []string{"no such service: nope"}},
		{"unknown service to scale", "a: {" + idle + "}", "up -d --scale nope=2", []string{"no such service: nope"}},
		{"not running", "a: {" + idle + "}", "exec -T a true", []string{`service "a" is not running`}},
		{"unknown key", "a: {" + idle + ", comand: x}", "up -d", []string{"compose.yaml: services.a.comand: there is no such key"}},
		{"wrong type", "a: {" + idle + ", environment: 5}", "up -d", []string{"compose.yaml: services.a.environment must be a mapping"}},
		{"wrong value", "a: {" + idle + ", mem_limit: lots}", "up -d", []string{"mem_limit", "lots"}},
		{"no image", "a: {command: x}", "up -d", []string{`service "a" has neither an image nor a build context`}},
		{"cycle", "a: {" + idle + ", depends_on: [b]}, b: {" + idle + ", depends_on: [a]}", "up -d", []string{"dependency cycle detected: a -> b -> a"}},
		{"unknown dependency", "a: {" + idle + ", depends_on: [nope]}", "up -d", []string{`service "a" depends on undefined service "nope"`}},
		{"unknown volume", "a: {" + idle + ", volumes: ['nope:/x']}", "up -d", []string{`service "a" refers to undefined volume nope`}},
		{"refused key", "a: {" + idle + ", gpus: all}", "up -d", []string{"service a: gpus"}},
		{"no env_file", "a: {" + idle + ", env_file: nope.env}", "up -d", []string{"nope.env not found"}},
		{"no build context", "c: {build: nowhere}", "up -d", []string{"service c: build context", "nowhere"}},
		{"no such command", "a: {image: " + base + ", command: [nope]}", "up -d", []string{"create faulty-a-1", `cannot run "nope"`}},
		{"busy port", "a: {" + idle + ", ports: ['" + busy + ":80']}", "up -d", []string{"create faulty-a-1: port " + busy + "/tcp is in use"}},
		{
			"port of another service", "a: {" + idle + ", ports: ['" + fixed + ":80']}, b: {" + idle + ", depends_on: [a], ports: ['" + fixed + ":81']}", "up -d",
			[]string{"create faulty-b-1: port " + fixed + "/tcp is published by container faulty-a-1"},
		},
		{
			"port of several", "a: {" + idle + ", scale: 2, ports: ['" + fixed + ":80']}", "up -d",
			[]string{"create faulty-a-2: port " + fixed + "/tcp is published by container faulty-a-1"},
		},
		{
			"unhealthy", after + "service_healthy}}}, b: {" + idle + ", healthcheck: {test: 'echo nobody is home; exit 3', interval: 100ms, retries: 2}}", "up -d",
			[]string{"service a depends on b: container faulty-b-1 is unhealthy: its check exited with 3: nobody is home"},
		},
		{
			"gone before it was healthy", after + "service_healthy}}}, b: {image: " + base + ", command: [sh, -c, 'echo no luck; exit 4'], healthcheck: {test: 'true', interval: 30s}}", "up -d",
			[]string{"service a depends on b: container faulty-b-1 exited (4): its last words: no luck"},
		},
		{
			"not completed", after + "service_completed_successfully}}}, b: {image: " + base + ", command: [sh, -c, 'echo no luck; exit 4']}", "up -d",
			[]string{"service a depends on b: container faulty-b-1 didn't complete successfully: exit 4: its last words: no luck"},
		},
		{
			"unhealthy and waited for", "b: {" + idle + ", healthcheck: {test: 'exit 3', interval: 100ms, retries: 2}}", "up --wait",
			[]string{"container faulty-b-1 is unhealthy: its check exited with 3"},
		},
	} {
		p.Run(test.name, func(t *testing.T) {
			p := p.in(t)
			p.write(test.services)
			_, errs, code := p.try("", append([]string{"compose"}, strings.Fields(test.args)...)...)
			p.equal("exit code", code, 1)
			p.shows(errs, test.want...)
			p.write("a: {" + idle + "}, b: {" + idle + "}") // a file that can be read
			if _, ok := p.containers()["faulty-a-1"]; ok && strings.Contains(errs, "create faulty-a-1") {
				t.Error("it is there all the same")
			}
			p.compose("down", "-v", "-t", "2")
		})
	}
}

// keeps: what a container has in anonymous volumes is its successor's, what
// belongs to nobody any more is told of, and signals end what is followed.
func (p *person) keeps() {
	p.must(os.WriteFile(filepath.Join(p.dir, "Dockerfile"), []byte("FROM "+base+"\nVOLUME /declared\n"), 0o600))
	service := "a: {build: ., init: true, command: [sleep, inf], volumes: [/anonymous], environment: {N: '%d'}}"
	p.write(fmt.Sprintf(service, 1))
	p.compose("up", "-d")
	p.compose("exec", "-T", "a", "sh", "-c", "echo kept >/anonymous/x; echo kept >/declared/x; echo lost >/x")
	for n := 2; n < 4; n++ {
		p.write(fmt.Sprintf(service, n))
		p.shows(p.compose("up", "-d"), "Recreate")
		p.equal("what is kept", p.ok("compose", "exec", "-T", "a", "sh", "-c", "cat /anonymous/x /declared/x; ls /x 2>&1 || :"),
			"kept\nkept\nls: cannot access '/x': No such file or directory")
	}
	// What cannot be made does not cost what there is.
	old := p.containers()["faulty-a-1"].ID
	p.write(strings.TrimSuffix(fmt.Sprintf(service, 4), "}") + ", runtime: nope}")
	_, errs, code := p.try("", "compose", "up", "-d")
	p.equal("exit code", code, 1)
	p.shows(errs, "create faulty-a-1", "nope")
	p.equal("the container", p.containers()["faulty-a-1"].ID, old)
	p.equal("its state", p.containers()["faulty-a-1"].State, "running")
	p.write(strings.TrimSuffix(fmt.Sprintf(service, 4), "}") + ", secrets: [{source: s, target: /etc/passwd/x}]}}\nsecrets: {s: {environment: HOME}")
	if _, _, code := p.try("", "compose", "up", "-d"); code == 0 {
		p.Error("a secret below a file")
	}
	p.equal("the container", p.containers()["faulty-a-1"].ID, old)
	p.write(fmt.Sprintf(service, 3))
	p.compose("up", "-d")
	p.equal("what is kept", p.ok("compose", "exec", "-T", "a", "sh", "-c", "cat /anonymous/x /declared/x"), "kept\nkept")
	// Somebody gave up in the middle of a replace.
	p.ok("rename", "faulty-a-1", old[:12]+"_faulty-a-1")
	p.compose("up", "-d")
	p.equal("the container", p.containers()["faulty-a-1"].ID, old)
	p.ok("rename", "faulty-a-1", old[:12]+"_faulty-a-1")
	p.write(fmt.Sprintf(service, 4))
	p.compose("up", "-d")
	p.equal("containers", len(p.containers()), 1)
	p.equal("what is kept", p.ok("compose", "exec", "-T", "a", "sh", "-c", "cat /anonymous/x /declared/x"), "kept\nkept")
	p.write(fmt.Sprintf(service, 5))
	p.compose("up", "-d", "-V")
	p.equal("what is kept", p.ok("compose", "exec", "-T", "a", "sh", "-c", "ls /anonymous /declared"), "/anonymous:\n\n/declared:")
	p.equal("volumes", len(strings.Fields(p.ok("volume", "ls", "-q"))), 2)

	p.write("b: {" + idle + "}, job: {image: " + base + ", command: [sh, -c, 'echo done; exit 3']}")
	p.shows(p.compose("up", "-d", "b"), "containers of services that the file does not have", "faulty-a-1")
	p.shows(p.compose("up", "-d", "--remove-orphans", "b"), "faulty-a-1  Removed")
	out, _, code := p.try("", "compose", "up", "--exit-code-from", "job")
	p.equal("exit code", code, 3)
	p.shows(out, "faulty-job-1 | done\n")
	p.equal("state of b", p.containers()["faulty-b-1"].State, "exited")
	p.compose("up", "-d", "b")
	p.leavesExec()
	p.compose("down", "-v", "-t", "2")
	p.followsRestarts()
	p.ok("rmi", "faulty-a")
	// Those of the orphan were nobody's.
	p.ok("volume", "prune", "-f")
	p.equal("volumes", p.ok("volume", "ls", "-q"), "")
}

// leavesExec: one ctrl-c ends it, as that of exec.
func (p *person) leavesExec() {
	cmd := p.command("compose", "exec", "-T", "-e", "LIKE_HERE", "b", "sh", "-c", "echo here is $LIKE_HERE; exec sleep inf")
	cmd.Env = append(cmd.Env, "LIKE_HERE=this")
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "here is this" {
		p.Errorf("it says %q", lines.Text())
	}
	p.must(cmd.Process.Signal(os.Interrupt))
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill(); p.Error("it goes on") })
	_ = cmd.Wait()
	kill.Stop()
}

// followsRestarts: up goes on with a container that is started again and again,
// and still listens to the person.
func (p *person) followsRestarts() {
	p.write("again: {image: " + base + ", command: [sh, -c, 'echo here I am'], restart: always}")
	cmd := p.command("compose", "up")
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	lines := bufio.NewScanner(out)
	for seen := 0; seen < 3 && lines.Scan(); {
		if strings.Contains(lines.Text(), "here I am") {
			seen++
		}
	}
	p.must(cmd.Process.Signal(os.Interrupt))
	kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for lines.Scan() { // to its end
	}
	_ = cmd.Wait()
	p.equal("exit code", cmd.ProcessState.ExitCode(), 130)
	p.equal("state", p.containers()["faulty-again-1"].State, "exited")
	p.compose("down", "-t", "2")
}

// publishes: free ports are those that neither a program nor a container has.
func (p *person) publishes() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	p.must(err)
	first := l.Addr().(*net.TCPAddr).Port
	if first > 65533 {
		p.Skip("no room above a port")
	}
	defer l.Close()
	p.write(fmt.Sprintf("a: {%s, scale: 2, ports: ['127.0.0.1:%d-%d:80', '127.0.0.1::81']}", idle, first, first+2))
	p.compose("up", "-d")
	seen := map[int]bool{}
	for _, c := range p.containers() {
		for _, o := range c.Publishers {
			if o.TargetPort == 80 && (o.PublishedPort <= first || o.PublishedPort > first+2) {
				p.Errorf("%s has port %d", c.Name, o.PublishedPort)
			}
			seen[o.PublishedPort] = true
		}
	}
	p.equal("ports", len(seen), 4)
	name := p.ok("run", "-d", "--init", "-p", "127.0.0.1::80", "-p", fmt.Sprintf("127.0.0.1:%d-65535:81", first), base, "sleep", "inf")
	p.shows(p.ok("port", name), "80/tcp -> 127.0.0.1:", "81/tcp -> 127.0.0.1:")
	_, errs, code := p.try("", "run", "-d", "-p", fmt.Sprintf("%d:80", first), base)
	p.equal("exit code", code, 125)
	p.shows(errs, fmt.Sprintf("port %d/tcp is in use", first))
	p.ok("rm", "-f", name)
	// What is stopped has no port, and may find that another has it now.
	p.compose("stop", "-t", "2")
	p.equal("ports", p.ok("compose", "ps", "-a", "--format", "{{.Ports}}"), "\n")
	p.compose("rm")
	_, errs, _ = p.try("", "compose", "start")
	p.shows(errs, `service "a" has no container to start`)
}

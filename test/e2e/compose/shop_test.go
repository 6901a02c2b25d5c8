package compose

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shop: an application of three services through its life.
func (p *person) shop() {
	p.openShop()
	p.step("build", (*person).builds)
	p.step("up", (*person).comesUp)
	p.step("look", (*person).looks)
	p.step("logs", (*person).readsLogs)
	p.step("exec", (*person).executes)
	p.step("change", (*person).changes)
	p.step("scale", (*person).scales)
	p.step("daemon", (*person).survivesDaemon)
	p.step("stop", (*person).stopsAndStarts)
	p.step("run", (*person).runsOnce)
	p.step("down", (*person).goesDown)
}

func (p *person) builds() {
	p.shows(p.compose("build"), "naming to shop-db", "naming to shop-api", "naming to shop-web")
	p.equal("services", p.ok("compose", "config", "--services"), "api\ndb\nweb")
	p.equal("images", p.ok("compose", "config", "--images"), "shop-api\nshop-db\nshop-web")
	p.equal("volumes", p.ok("compose", "config", "--volumes"), "data")
}

func (p *person) comesUp() {
	said := p.compose("up", "-d")
	p.shows(said, "Volume shop_data  Created", "Container shop-db-1  Started", "Container shop-api-1  Started", "Container shop-web-1  Started")
	// web is there, so that what it waits for is healthy.
	for name, c := range p.containers() {
		if c.State != "running" || c.Service != "web" && c.Health != "healthy" {
			p.Errorf("%s is %s %s", name, c.State, c.Health)
		}
	}
	text, _, err := p.ask(http.MethodPost, p.address()+"/notes", "first")
	p.must(err)
	p.equal("number of the note", text, "1\n")
	p.says(p.address()+"/notes", "first\n")
	before := p.ids()
	if again := p.compose("up", "-d"); strings.Contains(again, "re") || strings.Contains(again, "Start") {
		p.Errorf("nothing has changed, and up says\n%s", again)
	}
	p.equal("ids", p.ids(), before)
}

func (p *person) looks() {
	p.shows(p.ok("compose", "ps"), "NAME", "shop-api-1", "shop-db", "(healthy)", "->80/tcp")
	p.equal("services", p.ok("compose", "ps", "--services"), "api\ndb\nweb")
	web := p.containers()["shop-web-1"]
	p.equal("ids", p.ok("compose", "ps", "-q", "web"), web.ID)
	if len(web.Publishers) != 1 || web.Publishers[0].URL != "127.0.0.1" || web.Publishers[0].TargetPort != 80 {
		p.Errorf("it publishes %v", web.Publishers)
	}
	p.shows(p.ok("compose", "top", "web"), "shop-web-1", "nginx: worker process")
	p.shows(p.ok("compose", "images"), "shop-db-1", "latest")
	p.shows(p.ok("compose", "ls"), "shop", "running(3)", filepath.Join(p.dir, "compose.yaml"))
	p.shows(p.ok("compose", "stats", "--no-stream", "db"), "shop-db-1")
}

func (p *person) readsLogs() {
	all := p.ok("compose", "logs")
	p.shows(all, "shop-db-1  | the database is made\n", "shop-api-1 | ", "shop-web-1 | ")
	if last := p.ok("compose", "logs", "--tail", "1", "--no-log-prefix", "web"); strings.Contains(last, "|") || !strings.Contains(last, "GET /notes") || strings.Contains(last, "\n") {
		p.Errorf("the last line is %q", last)
	}
	// Those who follow see what comes.
	cmd := p.command("compose", "logs", "-f", "--tail", "0", "web", "api")
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	awaited := []string{"shop-web-1 | ", "shop-api-1 | "}
	asking := time.NewTicker(200 * time.Millisecond)
	defer asking.Stop()
	limit := time.After(20 * time.Second)
	for len(awaited) > 0 {
		select {
		case <-asking.C:
			_, _, err := p.ask(http.MethodGet, p.address()+"/notes?followed", "")
			p.must(err)
		case line := <-lines:
			awaited = slices.DeleteFunc(awaited, func(a string) bool {
				return strings.HasPrefix(line, a) && strings.Contains(line, "GET /notes")
			})
		case <-limit:
			p.Fatalf("nothing came of %q", awaited)
		}
	}
	p.must(cmd.Process.Signal(unix.SIGTERM))
	_ = cmd.Wait() // of the signal
}

func (p *person) executes() {
	p.equal("rows", p.ok("compose", "exec", "-T", "db", "psql", "-U", "shop", "-At", "-c", "select text from notes"), "first")
	out, errs, code := p.try("select 6 * 7;\n\\! exit 5\nselect nothing;\n", "compose", "exec", "-T", "db", "psql", "-U", "shop", "-At", "-v", "ON_ERROR_STOP=1")
	p.equal("result", out, "42\n")
	p.shows(errs, `column "nothing" does not exist`)
	p.equal("exit code", code, 3)
	// Names are known where there is a network in common, and nowhere else.
	p.ok("compose", "exec", "-T", "api", "getent", "hosts", "db")
	if _, _, code := p.try("", "compose", "exec", "-T", "web", "getent", "hosts", "db"); code == 0 {
		p.Error("web knows db")
	}
	p.equal("password", p.ok("compose", "exec", "-T", "api", "cat", "/run/secrets/password"), "correct horse battery staple")
	p.equal("variable of the env_file", p.ok("compose", "exec", "-T", "api", "printenv", "PGDATABASE"), "shop")
	p.must(os.WriteFile(filepath.Join(p.dir, "copied"), []byte("copied\n"), 0o600))
	p.compose("cp", "copied", "web:/srv/copied")
	p.equal("file", p.ok("compose", "exec", "-T", "web", "cat", "/srv/copied"), "copied")
}

// changes: what is another service now is replaced alone, and what depends on it
// and says so is restarted.
func (p *person) changes() {
	before, web := p.ids("shop-api-1"), p.inspect("shop-web-1").State.StartedAt
	p.env = append(p.env, "GREETING=moin")
	said := p.compose("up", "-d")
	p.shows(said, "Container shop-api-1  Recreate", "Container shop-db-1  Running", "Container shop-web-1  Restarted")
	p.equal("ids of the others", p.ids("shop-api-1"), before)
	if p.inspect("shop-web-1").State.StartedAt == web {
		p.Error("web was not restarted")
	}
	p.says(p.address()+"/", "moin\n")
	p.says(p.address()+"/notes", "first\n")
	p.env = p.env[:len(p.env)-1]
	p.compose("up", "-d", "--no-recreate")
	p.says(p.address()+"/", "moin\n")
}

// scales: there are several of a service, and others find them all by its name.
func (p *person) scales() {
	p.env = append(p.env, "GREETING=moin")
	before := p.ids()
	p.compose("up", "-d", "--scale", "api=3")
	after := p.ids("shop-api-2", "shop-api-3")
	p.equal("ids of those there were", after, before)
	p.equal("containers", len(p.ids()), 5)
	addresses := func() int {
		return len(strings.Fields(p.ok("compose", "exec", "-T", "web", "sh", "-c", "getent ahostsv4 api | cut -d' ' -f1 | sort -u")))
	}
	p.equal("addresses of api", addresses(), 3)
	p.compose("up", "-d", "--scale", "api=3", "--wait")
	p.compose("exec", "-T", "web", "nginx", "-s", "reload")
	url := p.address()
	seen := map[string]bool{}
	p.eventually(func() error {
		_, api, err := p.ask(http.MethodGet, url+"/", "")
		if seen[api] = true; len(seen) < 3 {
			return errors.Join(err, fmt.Errorf("%d of 3 have answered", len(seen)))
		}
		return nil
	})
	p.compose("scale", "api=1")
	p.equal("ids", p.ids(), before)
	p.equal("addresses of api", addresses(), 1)
	p.env = p.env[:len(p.env)-1]
	p.compose("exec", "-T", "web", "nginx", "-s", "reload")
}

// inspected is what `inspect` says of a container.
type inspected struct {
	RestartCount int
	State        struct {
		Pid       int
		StartedAt string
		Health    struct {
			Status string
			Log    []struct{ Start time.Time }
		}
	}
}

func (p *person) inspect(name string) inspected {
	p.Helper()
	var all []inspected
	p.must(json.Unmarshal([]byte(p.ok("inspect", name)), &all))
	return all[0]
}

// survivesDaemon: containers run while the daemon does not, and go on being looked
// after when it is back.
func (p *person) survivesDaemon() {
	url, before, pid := p.address(), p.ids(), p.inspect("shop-db-1").State.Pid
	p.must(p.node.Kill())
	p.says(url+"/notes", "first\n")
	_, _, err := p.ask(http.MethodPost, url+"/notes", "second")
	p.must(err)
	p.must(p.node.Restart(p.Context()))
	back := time.Now()
	p.equal("ids", p.ids(), before)
	p.equal("pid", p.inspect("shop-db-1").State.Pid, pid)
	p.equal("address", p.address(), url)
	p.says(url+"/notes", "first\nsecond\n")
	p.equal("health", p.containers()["shop-db-1"].Health, "healthy")
	p.eventually(func() error {
		for _, check := range p.inspect("shop-db-1").State.Health.Log {
			if check.Start.After(back) {
				return nil
			}
		}
		return errors.New("its health is not checked any more")
	})
	// So are its restarts.
	api := p.inspect("shop-api-1")
	p.must(unix.Kill(api.State.Pid, unix.SIGKILL))
	p.eventually(func() error {
		now := p.inspect("shop-api-1")
		if now.RestartCount != api.RestartCount+1 || now.State.Health.Status != "healthy" {
			return fmt.Errorf("%d restarts, %s", now.RestartCount, now.State.Health.Status)
		}
		return nil
	})
	if said := p.compose("up", "-d", "--no-recreate"); strings.Contains(said, "Recreate") {
		p.Errorf("nothing has changed, and up says\n%s", said)
	}
	p.says(url+"/notes", "first\nsecond\n")
}

func (p *person) stopsAndStarts() {
	before := p.ids()
	p.compose("stop")
	for name, c := range p.containers() {
		if c.State != "exited" || c.ExitCode != 0 {
			p.Errorf("%s is %s with code %d", name, c.State, c.ExitCode)
		}
	}
	p.equal("running", p.ok("compose", "ps", "-q"), "")
	p.compose("start")
	p.equal("ids", p.ids(), before)
	p.says(p.address()+"/notes", "first\nsecond\n")
	p.shows(p.compose("restart", "api"), "shop-api-1  Restarted", "shop-web-1  Restarted")
	p.says(p.address()+"/notes", "first\nsecond\n")
	p.compose("pause", "web")
	p.equal("state", p.containers()["shop-web-1"].State, "paused")
	p.compose("unpause")
	p.compose("kill", "web")
	p.equal("exit code", p.containers()["shop-web-1"].ExitCode, 137)
	p.compose("rm", "-f")
	if _, ok := p.containers()["shop-web-1"]; ok {
		p.Error("web is still there")
	}
	p.shows(p.compose("up", "-d"), "shop-web-1  Created")
	p.says(p.address()+"/notes", "first\nsecond\n")
}

func (p *person) runsOnce() {
	// A service of a profile is there when it is asked for.
	out, _, code := p.try("", "compose", "--profile", "tools", "up", "--no-log-prefix", "report")
	p.equal("report", out, "notes: 2\n")
	p.equal("exit code", code, 0)
	out, _, code = p.try("asked\n", "compose", "run", "--rm", "-T", "-e", "MORE=yes", "api", "sh", "-c", "echo $PGHOST $MORE; cat; exit 7")
	p.equal("output", out, "db yes\nasked\n")
	p.equal("exit code", code, 7)
	name := p.ok("compose", "run", "-d", "db", "sleep", "1000")
	p.shows(name, "shop-db-run-")
	p.shows(p.ok("compose", "ps", "-a"), name, "shop-report-1")
	p.equal("others", strings.Contains(p.ok("compose", "ps"), name), false)
}

// goesDown: what is removed is gone, and the volume with -v.
func (p *person) goesDown() {
	url := p.address()
	if strings.Contains(p.node.LogFrom(0), "Putting back the host ports") {
		p.Error("the rules of host ports did not stay")
	}
	p.compose("down", "-t", "2")
	p.equal("containers", p.ok("ps", "-aq"), "")
	p.ok("volume", "prune", "-f") // that of report, which nobody named
	p.equal("volumes", p.ok("volume", "ls", "-q"), "shop_data")
	if _, _, err := p.ask(http.MethodGet, url, ""); err == nil {
		p.Error("somebody answers")
	}
	p.compose("up", "-d")
	p.says(p.address()+"/notes", "first\nsecond\n")
	p.compose("down", "-v", "--rmi", "local")
	p.equal("containers", p.ok("ps", "-aq"), "")
	p.equal("volumes", p.ok("volume", "ls", "-q"), "")
	p.equal("projects", p.ok("compose", "ls", "-aq"), "")
	p.equal("images", p.ok("images", "--format", "{{.Repository}}"), "debian")
	pods, err := p.node.Raw.ListPodSandbox(p.Context(), &runtimeapi.ListPodSandboxRequest{})
	p.must(err)
	p.equal("pods", len(pods.GetItems()), 0)
}

package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/test/e2e/debian"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// base is the image that the shop's are built on.
const base = "debian:e2e"

// person works in a directory with a Compose file.
type person struct {
	*testing.T
	node *node.Node
	bin  node.Binaries
	dir  string
	env  []string
}

// TestCompose has one node for all, which takes the longest.
func TestCompose(t *testing.T) {
	p := onNode(t)
	for _, part := range []struct {
		name string
		work func(*person)
	}{{"shop", (*person).shop}, {"faults", (*person).faults}, {"keeping", (*person).keeps}, {"ports", (*person).publishes}} {
		t.Run(part.name, func(t *testing.T) {
			p := p.in(t)
			p.dir = t.TempDir()
			part.work(p)
		})
	}
}

// onNode starts a node that has Debian; when the test ends nothing may be left.
func onNode(t *testing.T) *person {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	klog.SetOutput(io.Discard)
	p := &person{T: t, dir: t.TempDir(), env: []string{"BASE=" + base}}
	var err error
	p.bin, err = node.FindBinaries(t.Context(), p.dir)
	p.must(err)
	archive, err := debian.Archive(t.Context())
	p.must(err)
	p.node, err = node.Start(t.Context(), node.Options{Binaries: p.bin, Number: 74})
	p.must(err)
	before, err := invariant.Collect(p.node.InvariantConfig())
	p.must(err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			t.Log(p.node.LogTail(30))
			p.must(p.node.Purge(ctx))
			return
		}
		left, err := invariant.Settle(10*time.Second, func() ([]string, error) {
			now, err := invariant.Collect(p.node.InvariantConfig())
			return invariant.Residue(before, now), err
		})
		if len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		p.must(errors.Join(err, p.node.Close(ctx), p.node.Purge(ctx)))
	})
	p.ok("import", "-c", `CMD ["/bin/bash"]`, archive, base)
	return p
}

// openShop puts the shop's files into the person's directory, and its program.
func (p *person) openShop() {
	p.Helper()
	source, err := image.SourceDir()
	p.must(err)
	files := filepath.Join(source, "compose", "shop")
	p.must(os.CopyFS(p.dir, os.DirFS(files)))
	p.must(image.Compile(p.Context(), filepath.Join(files, "api"), filepath.Join(p.dir, "api", "api")))
}

func (p *person) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// command is the binary with arguments.
func (p *person) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.Context(), p.bin.Node, args...)
	cmd.Dir, cmd.Env = p.dir, append(append(os.Environ(), "CRI_NODE_ADDRESS="+p.node.Endpoint()), p.env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// try runs a command, and returns what it printed and its exit code.
func (p *person) try(stdin string, args ...string) (out, errs string, code int) {
	p.Helper()
	cmd := p.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	exit := new(exec.ExitError)
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		p.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// ok runs a command that must work, and returns what it printed.
func (p *person) ok(args ...string) string {
	p.Helper()
	out, errs, code := p.try("", args...)
	if code != 0 {
		p.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
	return strings.TrimSuffix(out, "\n")
}

// compose runs a verb of compose that must work; what it says on stderr is
// returned too.
func (p *person) compose(args ...string) string {
	p.Helper()
	out, errs, code := p.try("", append([]string{"compose"}, args...)...)
	if code != 0 {
		p.Fatalf("compose %v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out + errs
}

func (p *person) equal(what string, got, want any) {
	p.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.Fatalf("%s is %v, not %v", what, got, want)
	}
}

// shows fails unless a text has all parts.
func (p *person) shows(text string, parts ...string) {
	p.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			p.Fatalf("%q is not in\n%s", part, text)
		}
	}
}

// eventually waits for something.
func (p *person) eventually(done func() error) {
	p.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
	}
	p.Fatalf("waited in vain: %v", err)
}

// in is p for a subtest.
func (p *person) in(t *testing.T) *person {
	other := *p
	other.T = t
	return &other
}

// step runs a part of a test that the next ones build on.
func (p *person) step(name string, work func(p *person)) {
	p.Helper()
	if !p.Run(name, func(t *testing.T) { work(p.in(t)) }) {
		p.FailNow()
	}
}

// container is one as `compose ps --format json` shows it.
type container struct {
	ID, Name, Service, State, Health string
	ExitCode                         int
	Publishers                       []struct {
		URL                       string
		TargetPort, PublishedPort int
	}
}

// containers of the project by name.
func (p *person) containers() map[string]container {
	p.Helper()
	all := map[string]container{}
	for line := range strings.Lines(p.ok("compose", "ps", "-a", "--format", "json")) {
		var c container
		p.must(json.Unmarshal([]byte(line), &c))
		all[c.Name] = c
	}
	return all
}

// ids are those of the containers by name, but some.
func (p *person) ids(but ...string) map[string]string {
	p.Helper()
	all := map[string]string{}
	for name, c := range p.containers() {
		if !slices.Contains(but, name) {
			all[name] = c.ID
		}
	}
	return all
}

// address is where the shop is.
func (p *person) address() string {
	p.Helper()
	return "http://" + p.ok("compose", "port", "web", "80")
}

// ask calls the shop, at once, and returns what it says and who of api's.
func (p *person) ask(method, url, body string) (text, api string, err error) {
	ctx, cancel := context.WithTimeout(p.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, data)
	}
	return string(data), resp.Header.Get("X-Api"), err
}

// says waits until the shop answers with something; nginx has to find the api.
func (p *person) says(url, want string) {
	p.Helper()
	p.eventually(func() error {
		text, _, err := p.ask(http.MethodGet, url, "")
		if err == nil && text != want {
			err = fmt.Errorf("it says %q, not %q", text, want)
		}
		return err
	})
}

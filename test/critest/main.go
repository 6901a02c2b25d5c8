// Command critest runs the validation suite of cri-tools, whose binary it is
// given, and says what came of it:
//
//	go run ./test/critest -critest PATH [-out DIR] [-- ARGUMENTS OF CRITEST...]
//
// It starts a daemon with directories, network, cgroup and sockets of its own, and
// takes it away again; -endpoint names one that runs already. The images come from
// the registry named by -registry, whatever registry they are asked of. The output,
// the report and the daemon's log are left in -out, and the summary is Markdown
// for docs/conformance.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/specs"
)

// options are the command line.
type options struct {
	critest, endpoint, nriSocket string
	handler, registry, out       string
	tools, ginkgoVersion         string
	parallel                     int
	websocket                    bool
	args                         []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	flag.StringVar(&o.critest, "critest", "", "the suite's `binary`")
	flag.StringVar(&o.endpoint, "endpoint", "", "`address` of a daemon that runs; a fresh one is started when empty")
	flag.StringVar(&o.nriSocket, "nri-socket", "", "NRI `socket` of the daemon of -endpoint")
	flag.StringVar(&o.handler, "handler", "", "default OCI `runtime` of the fresh daemon: runc or crun")
	flag.StringVar(&o.registry, "registry", "127.0.0.1:5000", "`address` of the registry that has the images")
	flag.StringVar(&o.out, "out", "critest-out", "`directory` for output and reports")
	flag.StringVar(&o.tools, "tools", "", "`directory` where a missing ginkgo, which -parallel takes, is installed")
	flag.StringVar(&o.ginkgoVersion, "ginkgo", "", "`version` of ginkgo to install where the binary does not name it")
	flag.IntVar(&o.parallel, "parallel", 1, "specs at a time")
	flag.BoolVar(&o.websocket, "websocket", false, "exec, attach and port-forward over WebSocket instead of SPDY")
	flag.Parse()
	o.args = flag.Args()
	if o.critest == "" {
		return o, errors.New("-critest is missing: the path of a critest binary (https://github.com/kubernetes-sigs/cri-tools)")
	}
	var err error
	for _, path := range []*string{&o.critest, &o.out, &o.tools} {
		if *path != "" && err == nil {
			*path, err = filepath.Abs(*path)
		}
	}
	return o, err
}

func run(ctx context.Context) (failed bool, err error) {
	o, err := parse()
	if err != nil {
		return false, err
	}
	if err := errors.Join(os.RemoveAll(o.out), os.MkdirAll(o.out, 0o755)); err != nil {
		return false, err
	}
	title := []string{"endpoint " + o.endpoint}
	if o.endpoint == "" {
		n, about, err := startNode(ctx, &o)
		if err != nil {
			return false, err
		}
		title = about
		defer func() {
			ctx := context.WithoutCancel(ctx)
			err = errors.Join(err, n.Close(ctx), os.WriteFile(filepath.Join(o.out, "daemon.log"), []byte(n.LogFrom(0)), 0o600), n.Purge(ctx))
		}()
	}
	all, runErr := o.runSuite(ctx)
	if all == nil {
		return false, runErr
	}
	about, err := o.about(ctx, title)
	if err != nil {
		return false, err
	}
	s := specs.Summarize(all)
	text := about + s.Markdown()
	fmt.Print("\n" + text)
	err = os.WriteFile(filepath.Join(o.out, "summary.md"), []byte(text), 0o644)
	if runErr != nil && s.Total.Failed == 0 {
		err = errors.Join(err, runErr) // something besides the specs went wrong
	}
	return s.Total.Failed > 0, err
}

// startNode starts a fresh daemon and says what it is.
func startNode(ctx context.Context, o *options) (*node.Node, []string, error) {
	dir, err := os.MkdirTemp("", "critest")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	bin, err := node.FindBinaries(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	if o.handler == "" {
		o.handler = "runc"
	}
	path, ok := bin.Handlers[o.handler]
	if !ok {
		return nil, nil, fmt.Errorf("there is no %s on this machine", o.handler)
	}
	certs := filepath.Join(o.out, "certs.d")
	if err := writeHosts(certs, o.registry); err != nil {
		return nil, nil, err
	}
	n, err := node.Start(ctx, node.Options{
		Binaries: bin, Number: 91, DefaultHandler: o.handler,
		Config: fmt.Sprintf("[image]\ncerts_dirs = [%q]\n", certs),
	})
	if err != nil {
		return nil, nil, err
	}
	o.endpoint, o.nriSocket = n.Endpoint(), n.NRISocket()
	return n, []string{version(ctx, bin.Node, "version"), version(ctx, path, "--version")}, nil
}

// writeHosts sends every registry's images to one registry.
func writeHosts(certs, registry string) error {
	dir := filepath.Join(certs, "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+registry)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}

// about says what was tested, on what and how.
func (o options) about(ctx context.Context, title []string) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read the kernel's version: %w", err)
	}
	facts := append(title, version(ctx, o.critest, "-version"), "Linux "+unix.ByteSliceToString(u.Release[:]), fmt.Sprintf("%d processors", runtime.NumCPU()))
	if o.parallel > 1 {
		facts = append(facts, fmt.Sprintf("%d specs at a time", o.parallel))
	}
	if o.websocket {
		facts = append(facts, "WebSocket")
	}
	if len(o.args) > 0 {
		facts = append(facts, "arguments "+strings.Join(o.args, " "))
	}
	return strings.Join(facts, ", ") + ".\n\n", nil
}

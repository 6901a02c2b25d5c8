// Command bench measures a container runtime through its CRI endpoint, any
// runtime's: pods are taken up and down one after another and several at a time,
// in the shape kubelet sends them, and each call is timed from the client's side.
//
//	go run ./test/bench --endpoint unix:///run/containerd/containerd.sock --match containerd
//
// Without --endpoint it starts a cri-node of its own, with its own directories,
// network and cgroup, and measures each OCI runtime on the machine, and how long
// it is until a person at a terminal sees something (--crictl to compare). It prints a
// table for a document, and with --json writes all numbers. Without --image it
// serves one of its own, a static busybox, from a registry on
// loopback. The memory of the runtime is the proportional set size of the
// processes that --pids, --cgroup or --match name; the containers' own processes
// must not be among them. What it makes it removes, also after an error or ^C.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// options are the command line.
type options struct {
	endpoint, image, handlers, cgroupParent string
	// node is a cri-node whose verbs are measured, and crictl what they are
	// compared with; both may be empty.
	node, crictl                              string
	pods, parallel, execs, lists, many, verbs int
	jsonFile                                  string
	processes                                 processSet
}

// processSet says which processes are the runtime's.
type processSet struct {
	pids   []int
	cgroup string
	match  []string
	// find replaces the above for a node of our own.
	find func() ([]usage.Process, error)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	var pids, match string
	flag.StringVar(&o.endpoint, "endpoint", "", "CRI endpoint; empty: a cri-node of our own")
	flag.StringVar(&o.image, "image", "", "image with sleep and true; empty: a busybox served on loopback")
	flag.StringVar(&o.handlers, "handlers", "", "runtime handlers to measure, as runc,crun; empty: the runtime's default, or all of our own node")
	flag.StringVar(&o.cgroupParent, "cgroup-parent", "", "cgroup parent of the pods; empty: the runtime's default")
	flag.IntVar(&o.pods, "pods", 30, "pods of each round")
	flag.IntVar(&o.parallel, "parallel", 8, "pods at a time in the second round; 0 leaves it out")
	flag.IntVar(&o.execs, "execs", 100, "ExecSync calls")
	flag.IntVar(&o.lists, "lists", 200, "calls of each list and status")
	flag.IntVar(&o.many, "many", 100, "pods that are up while statistics are listed once more; 0 leaves it out")
	flag.IntVar(&o.verbs, "verbs", 20, "how often each verb of a person is run; 0 leaves them out")
	flag.StringVar(&o.node, "cri-node", "", "the cri-node whose verbs are measured; empty: that of our own node, else none")
	flag.StringVar(&o.crictl, "crictl", "", "a crictl that `run` is compared with; empty: the same calls alone")
	flag.StringVar(&o.jsonFile, "json", "", "file for all numbers")
	flag.StringVar(&pids, "pids", "", "the runtime's processes, as 12,34")
	flag.StringVar(&o.processes.cgroup, "cgroup", "", "the runtime's processes, as a cgroup")
	flag.StringVar(&match, "match", "", "the runtime's processes, as words of which their command lines hold one: containerd,containerd-shim")
	flag.Parse()
	if match != "" {
		o.processes.match = strings.Split(match, ",")
	}
	for field := range strings.FieldsFuncSeq(pids, func(r rune) bool { return r == ',' }) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return o, fmt.Errorf("parse --pids: %w", err)
		}
		o.processes.pids = append(o.processes.pids, pid)
	}
	if o.pods < 1 {
		return o, errors.New("--pods must be at least 1")
	}
	return o, nil
}

func run() (err error) {
	o, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if o.endpoint == "" {
		n, err := o.startNode(ctx)
		if err != nil {
			return err
		}
		defer func() {
			clean := context.WithoutCancel(ctx)
			err = errors.Join(err, n.Close(clean), n.Purge(clean))
		}()
	}
	if o.image == "" {
		r, err := serveBusybox(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		o.image = r.Ref("bench/busybox:latest")
	}
	return measureAll(ctx, o)
}

// startNode starts a node and points the options at it.
func (o *options) startNode(ctx context.Context) (*node.Node, error) {
	dir, err := os.MkdirTemp("", "cri-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin, err := node.FindBinaries(ctx, dir)
	if err != nil {
		return nil, err
	}
	// The log of a node under load costs what kubelet's node would not pay.
	// Its network is the embedded one, as docs/benchmarks.md says.
	n, err := node.Start(ctx, node.Options{Binaries: bin, Number: 90, LogLevel: 1, NoConfList: true})
	if err != nil {
		return nil, err
	}
	o.endpoint, o.cgroupParent = n.Endpoint(), n.CgroupParent
	if o.node == "" {
		o.node = bin.Node
	}
	if o.handlers == "" {
		o.handlers = strings.Join(slices.Sorted(maps.Keys(bin.Handlers)), ",")
	}
	if o.processes.find == nil {
		o.processes.find = func() ([]usage.Process, error) {
			daemon, err := n.Daemon()
			if err != nil {
				return nil, err
			}
			monitors, err := n.Monitors()
			return append(monitors, daemon), err
		}
	}
	return n, nil
}

// measureAll connects, pulls the image and measures each handler.
func measureAll(ctx context.Context, o options) (err error) {
	clean := context.WithoutCancel(ctx)
	runtime, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(o.endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", o.endpoint, err)
	}
	defer func() { err = errors.Join(err, runtime.Close(clean)) }()
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint(o.endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", o.endpoint, err)
	}
	defer func() { err = errors.Join(err, images.Close(clean)) }()
	id, err := images.PullImage(ctx, &runtimeapi.ImageSpec{Image: o.image}, nil, nil)
	if err != nil {
		return fmt.Errorf("pull %s: %w", o.image, err)
	}
	logs, err := os.MkdirTemp("", "cri-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(logs)) }()

	var reports []*report
	for handler := range strings.SplitSeq(o.handlers, ",") {
		b := &bench{options: o, handler: handler, runtime: runtime, imageID: id, logs: logs}
		r, err := b.measure(ctx)
		if err != nil {
			return err
		}
		if len(reports) > 0 {
			fmt.Println()
		}
		r.print(os.Stdout)
		reports = append(reports, r)
	}
	if o.jsonFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(reports, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.jsonFile, append(data, '\n'), 0o644)
}

// serveBusybox starts a registry with one image.
func serveBusybox(ctx context.Context) (*registry.Registry, error) {
	files, err := image.Busybox()
	if err != nil {
		return nil, err
	}
	img, err := image.Build(image.Spec{Layers: [][]image.File{files}})
	if err != nil {
		return nil, err
	}
	r, err := registry.Start()
	if err != nil {
		return nil, err
	}
	if _, err := r.Push(ctx, "bench/busybox:latest", img); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// list finds the runtime's processes.
func (s processSet) list() ([]usage.Process, error) {
	if s.find != nil {
		return s.find()
	}
	seen := map[int]bool{}
	var all []usage.Process
	add := func(found []usage.Process) {
		for _, p := range found {
			if !seen[p.PID] && p.PID != os.Getpid() {
				seen[p.PID] = true
				all = append(all, p)
			}
		}
	}
	for _, pid := range s.pids {
		p, ok, err := usage.Get(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			add([]usage.Process{p})
		}
	}
	if s.cgroup != "" {
		found, err := usage.InCgroup(s.cgroup)
		if err != nil {
			return nil, err
		}
		add(found)
	}
	for _, word := range s.match {
		found, err := usage.Match(word)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			// Not those that merely have the word in an argument.
			if strings.Contains(p.Exe, word) {
				add([]usage.Process{p})
			}
		}
	}
	return all, nil
}

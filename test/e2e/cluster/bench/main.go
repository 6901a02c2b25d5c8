// Command bench measures container runtimes as kubelet sees them: pods are made
// and deleted in a cluster, one after another and several at a time, with the image
// present, and what is told are kubelet's own metrics, the processor time and the
// memory of the runtime. cri-node is measured beside containerd, which is built
// from the module peer: by turns, with the same kubelet, control plane and runc.
//
//	go run ./bench -rounds 3 -contenders cri-node,containerd
//
// It prints tables for a document, of each contender's calmest round. All of it
// runs in a cage (package cage), so that nothing stays behind, also after an error
// or ^C. The directory of the cage:
//
//	plane/  logs/              as the tests have them
//	<round>-<contender>/       of its worker and, for containerd, of itself
//
// kubelet's histograms are read before and after each part, and their difference is
// what is told. Their buckets for a pod's start are seconds wide: the median and the
// slowest are of the values that kubelet logs when it counts them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// preparedVariable hands what was built outside of the cage to the inside.
const preparedVariable = "CRI_NODE_BENCH_PREPARED"

// options are the command line.
type options struct {
	contenders                   []string
	rounds, pods, parallel, rest int
	evented                      bool
	jsonFile, logs               string
}

// prepared are the programs.
type prepared struct {
	Programs, Peer build.Programs
	Binaries       node.Binaries
}

func main() {
	cage.Serve()
	log.SetOutput(io.Discard)
	code, err := run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 1
	}
	os.Exit(code)
}

func parse() (options, error) {
	var o options
	var names string
	flag.StringVar(&names, "contenders", "cri-node,containerd", "what to measure, of "+strings.Join(known(), ", "))
	flag.IntVar(&o.rounds, "rounds", 2, "how often each is measured")
	flag.IntVar(&o.pods, "pods", 30, "pods of each part")
	flag.IntVar(&o.parallel, "parallel", 10, "pods at a time in the second part")
	flag.IntVar(&o.rest, "rest", 30, "seconds of rest, with the pods up, over which the processor time is measured")
	flag.BoolVar(&o.evented, "evented", false, "with kubelet's feature gate EventedPLEG")
	flag.StringVar(&o.jsonFile, "json", "", "file for the numbers of all rounds")
	flag.StringVar(&o.logs, "logs", "", "folder for the logs of kubelets and runtimes")
	flag.Parse()
	o.contenders = strings.Split(names, ",")
	for _, name := range o.contenders {
		if !slices.Contains(known(), name) {
			return o, fmt.Errorf("-contenders: there is no %q", name)
		}
	}
	if o.rounds < 1 || o.pods < 1 || o.parallel < 1 || o.rest < 1 {
		return o, errors.New("-rounds, -pods, -parallel and -rest must be at least 1")
	}
	for _, path := range []*string{&o.jsonFile, &o.logs} {
		var err error
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

func run(ctx context.Context) (int, error) {
	o, err := parse()
	if err != nil {
		return 2, err
	}
	dir, err := cage.Inside()
	if err != nil {
		return 1, err
	}
	if dir != "" {
		return 0, inside(ctx, dir, o)
	}
	if os.Getuid() != 0 {
		return 1, errors.New("it takes root")
	}
	if dir, err = os.MkdirTemp("", "clb"); err != nil {
		return 1, err
	}
	if err := prepare(ctx, dir, o); err != nil {
		return 1, errors.Join(err, os.RemoveAll(dir))
	}
	code, err := cage.Run(cage.Options{Dir: dir})
	if code != 0 || err != nil {
		fmt.Fprintf(os.Stderr, "logs are in %s\n", dir)
	}
	return code, err
}

// prepare builds what is needed, outside of the cage, from where modules can be got.
func prepare(ctx context.Context, dir string, o options) error {
	var p prepared
	var err error
	p.Programs, err = build.Build(ctx, build.Kubelet, build.APIServer, build.ControllerManager, build.Scheduler, build.Etcd)
	if err != nil {
		return err
	}
	if slices.Contains(o.contenders, nameContainerd) {
		if p.Peer, err = build.Peer(ctx); err != nil {
			return err
		}
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if p.Binaries, err = node.FindBinaries(ctx, bin); err != nil {
		return err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.Setenv(preparedVariable, string(data))
}

// inside measures all contenders by turns and tells what came out.
func inside(ctx context.Context, dir string, o options) (err error) {
	var p prepared
	if err := json.Unmarshal([]byte(os.Getenv(preparedVariable)), &p); err != nil {
		return fmt.Errorf("read what was prepared: %w", err)
	}
	a, err := newArena(ctx, dir, o, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	var all []*result
	for round := range o.rounds {
		for _, name := range o.contenders {
			r, err := a.measure(ctx, name, round+1)
			if err != nil {
				return fmt.Errorf("measure %s: %w", name, err)
			}
			fmt.Fprintln(os.Stderr, r.brief())
			all = append(all, r)
		}
	}
	if err := report(os.Stdout, o, calmest(o.contenders, all)); err != nil || o.jsonFile == "" {
		return err
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.jsonFile, append(data, '\n'), 0o644)
}

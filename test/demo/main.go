// Command demo shows a pod working: it serves an image from a registry on
// loopback, lets the runtime at a CRI endpoint pull it and run a pod with two
// containers that talk over localhost, prints the log of one and the output of a
// command in it, and takes everything down.
//
//	go run ./test/demo --endpoint unix:///run/cri-node/cri.sock
//
// Without --endpoint it uses the cri-node that runs on this machine, and starts
// one of its own where none does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/cri-node/cri-node/test/e2e/crilog"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

func main() {
	endpoint := flag.String("endpoint", "", "CRI endpoint; empty: the cri-node of this machine, or one of our own")
	handler := flag.String("handler", "", "runtime handler; empty: the runtime's default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := start(ctx, *endpoint, *handler); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is the connection to the runtime.
type demo struct {
	runtime internalapi.RuntimeService
	images  internalapi.ImageManagerService
	logs    string
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// defaultSocket is where a cri-node listens that was not told otherwise.
const defaultSocket = "/run/cri-node/cri.sock"

// start finds or starts a node.
func start(ctx context.Context, endpoint, handler string) (err error) {
	if endpoint == "" {
		if conn, err := net.Dial("unix", defaultSocket); err == nil {
			_ = conn.Close()
			endpoint = "unix://" + defaultSocket
		}
	}
	if endpoint != "" {
		return run(ctx, endpoint, handler)
	}
	dir, err := os.MkdirTemp("", "cri-demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := node.FindBinaries(ctx, dir)
	if err != nil {
		return err
	}
	say("No cri-node runs on this machine: starting one for the demonstration.")
	n, err := node.Start(ctx, node.Options{Binaries: bin, Number: 91, DefaultHandler: handler})
	if err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		err = errors.Join(err, n.Close(clean), n.Purge(clean))
	}()
	return run(ctx, n.Endpoint(), handler)
}

func run(ctx context.Context, endpoint, handler string) (err error) {
	clean := context.WithoutCancel(ctx)
	d := &demo{}
	if d.runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(time.Minute).Build(ctx); err != nil {
		return fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	defer func() { err = errors.Join(err, d.runtime.Close(clean)) }()
	if d.images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(time.Minute).Build(ctx); err != nil {
		return fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	defer func() { err = errors.Join(err, d.images.Close(clean)) }()
	if d.logs, err = os.MkdirTemp("", "cri-demo"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.logs)) }()
	version, err := d.runtime.Version(ctx, "0.1.0")
	if err != nil {
		return err
	}
	say("Talking to %s %s at %s.", version.RuntimeName, version.RuntimeVersion, endpoint)

	r, err := registry.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	id, err := d.pull(ctx, r)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, d.images.RemoveImage(clean, &runtimeapi.ImageSpec{Image: id}))
		if err == nil {
			say("Removed the image. Nothing of the demonstration is left.")
		}
	}()
	return d.pod(ctx, handler, id)
}

// pull pushes a busybox image into the registry and lets the runtime pull it.
func (d *demo) pull(ctx context.Context, r *registry.Registry) (string, error) {
	files, err := image.Busybox()
	if err != nil {
		return "", err
	}
	files = append(files, image.Dir("www"), image.Text("www/index.html", "hello from the web container\n"))
	img, err := image.Build(image.Spec{Layers: [][]image.File{files}})
	if err != nil {
		return "", err
	}
	if _, err := r.Push(ctx, "demo/busybox:latest", img); err != nil {
		return "", err
	}
	ref := r.Ref("demo/busybox:latest")
	began := time.Now()
	id, err := d.images.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	say("Pulled %s in %v: %s", ref, time.Since(began).Round(time.Millisecond), id)
	return id, nil
}

// pod runs the pod, shows it and takes it down.
func (d *demo) pod(ctx context.Context, handler, imageID string) (err error) {
	clean := context.WithoutCancel(ctx)
	config := kubelet.Pod{Name: "demo", Namespace: "default", LogDirectory: d.logs}.Config()
	began := time.Now()
	id, err := d.runtime.RunPodSandbox(ctx, config, handler)
	if err != nil {
		return fmt.Errorf("run pod: %w", err)
	}
	defer func() {
		err = errors.Join(err, d.runtime.StopPodSandbox(clean, id), d.runtime.RemovePodSandbox(clean, id))
		if err == nil {
			say("Stopped and removed the pod with its containers.")
		}
	}()
	status, err := d.runtime.PodSandboxStatus(ctx, id, false)
	if err != nil {
		return err
	}
	say("Pod %s runs after %v, with address %s.", id[:min(13, len(id))], time.Since(began).Round(time.Millisecond), status.Status.Network.GetIp())

	container := func(name, script string) (string, string, error) {
		c := kubelet.Container{Name: name, Image: imageID, Command: []string{"sh", "-c", script}}.Config(config)
		began := time.Now()
		cid, err := d.runtime.CreateContainer(ctx, id, c, config)
		if err != nil {
			return "", "", fmt.Errorf("create container %s: %w", name, err)
		}
		if err := d.runtime.StartContainer(ctx, cid); err != nil {
			return "", "", fmt.Errorf("start container %s: %w", name, err)
		}
		say("Container %s (%s) runs after %v.", name, cid[:min(13, len(cid))], time.Since(began).Round(time.Millisecond))
		return cid, filepath.Join(d.logs, c.LogPath), nil
	}
	web, _, err := container("web", "exec httpd -f -v -p 8080 -h /www")
	if err != nil {
		return err
	}
	_, log, err := container("client", "until wget -q -O - http://127.0.0.1:8080/; do sleep 0.1; done; echo done; exec sleep 1000")
	if err != nil {
		return err
	}
	if err := showLog(ctx, log, "done"); err != nil {
		return err
	}
	command := []string{"sh", "-c", "hostname; id; ps"}
	stdout, stderr, err := d.runtime.ExecSync(ctx, web, command, 10*time.Second)
	if err != nil {
		return fmt.Errorf("exec in web: %w: %s", err, stderr)
	}
	say("Running %q in web gives:\n%s", strings.Join(command, " "), indent(string(stdout)))
	return nil
}

// showLog waits until the log holds the word and prints it.
func showLog(ctx context.Context, path, word string) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for {
		entries, err := crilog.Read(path)
		if text := crilog.Text(entries, ""); err == nil && strings.Contains(text, word) {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			say("The client has reached web over localhost. Its log, %s:\n%s", path, indent(string(data)))
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("log %s does not come to %q: %w", path, word, err)
		}
	}
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}

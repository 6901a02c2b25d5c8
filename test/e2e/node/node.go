package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// Node is one daemon with all that belongs to it.
type Node struct {
	Dir, Root, State, Logs string
	CertsDir, AuthFile     string
	Bridge, CgroupParent   string
	Subnets                []netip.Prefix

	// Runtime and Images are the clients kubelet uses. Raw and RawImages are
	// the bare ones, for requests kubelet would not send.
	Runtime   internalapi.RuntimeService
	Images    internalapi.ImageManagerService
	Raw       runtimeapi.RuntimeServiceClient
	RawImages runtimeapi.ImageServiceClient

	// Watch remembers the node for the checks after each test.
	Watch *invariant.Watch

	options                           Options
	seed                              int // tells this run from others; a process id
	socket, leaseDir, holdDir, bootID string
	network                           string // name of the CNI network
	conn                              *grpc.ClientConn
	daemon                            *exec.Cmd
	exited                            chan struct{} // closed when daemon has ended
	sweeper                           *sweeper
}

// Start makes a node and waits until it answers. On an error nothing is left.
func Start(ctx context.Context, o Options) (*Node, error) {
	// Short, because the path of a unix socket is limited to 107 bytes.
	dir, err := os.MkdirTemp("", "crin")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	host, err := invariant.Host()
	if err != nil {
		return nil, fmt.Errorf("look at the host: %w", err)
	}
	n := &Node{options: o, seed: os.Getpid()}
	n.layout(dir, o)
	if err := n.write(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare node: %w", err), os.RemoveAll(dir))
	}
	if !o.Kept {
		err = n.startSweeper()
	}
	if err := errors.Join(err, n.Restart(ctx)); err != nil {
		return nil, errors.Join(err, n.Purge(context.WithoutCancel(ctx)))
	}
	if n.Watch, err = invariant.NewWatch(host, n.InvariantConfig()); err != nil {
		return nil, errors.Join(err, n.Purge(context.WithoutCancel(ctx)))
	}
	return n, nil
}

// Endpoint is the address of the CRI.
func (n *Node) Endpoint() string { return "unix://" + n.socket }

// Conn is the connection that Raw has, for other services.
func (n *Node) Conn() grpc.ClientConnInterface { return n.conn }

// Restart starts the daemon, which must not be running, and waits until it answers.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.Connect(ctx)
}

// Launch starts the daemon without waiting for it.
func (n *Node) Launch() error {
	log, err := os.OpenFile(filepath.Join(n.Dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.daemon = exec.Command(n.options.Binaries.Node, n.arguments()...)
	n.daemon.Stdout, n.daemon.Stderr = log, log
	n.daemon.Env = append(append(os.Environ(), "CRI_NODE_BOOT_ID_PATH="+n.bootID), n.options.Env...)
	// Its own session: a signal to the tests must not become one to the node.
	n.daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := n.daemon.Start(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}(n.daemon, n.exited)
	if n.options.Kept {
		return n.note()
	}
	return nil
}

func (n *Node) arguments() []string {
	level := n.options.LogLevel
	if level == 0 {
		level = 4
	}
	return []string{"serve", "--root", n.Root, "--state", n.State, "--listen", n.Endpoint(),
		"--config", filepath.Join(n.Dir, "config.toml"), "--log-level", strconv.Itoa(level)}
}

// Connect waits until the daemon answers Version and makes fresh clients.
func (n *Node) Connect(ctx context.Context) error {
	limit := n.options.StartLimit
	if limit == 0 {
		limit = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	n.disconnect(ctx)
	conn, err := grpc.NewClient(n.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return err
	}
	n.conn, n.Raw, n.RawImages = conn, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	if err := n.awaitVersion(ctx); err != nil {
		return err
	}
	// 2 minutes is kubelet's runtime request timeout.
	if n.Runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(n.Endpoint()).WithConnectionTimeout(2 * time.Minute).Build(ctx); err != nil {
		return fmt.Errorf("connect to runtime service: %w", err)
	}
	if n.Images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint(n.Endpoint()).WithConnectionTimeout(2 * time.Minute).Build(ctx); err != nil {
		return fmt.Errorf("connect to image service: %w", err)
	}
	return nil
}

func (n *Node) awaitVersion(ctx context.Context) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := n.Raw.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			return nil
		}
		// Do not wait out gRPC's back-off: the socket may be there by now.
		n.conn.ResetConnectBackoff()
		select {
		case <-n.exited:
			return fmt.Errorf("daemon ended while starting: %w\n%s", err, n.LogTail(30))
		case <-ctx.Done():
			return fmt.Errorf("daemon does not answer: %w\n%s", err, n.LogTail(30))
		case <-ticker.C:
		}
	}
}

func (n *Node) disconnect(ctx context.Context) {
	if n.conn == nil {
		return
	}
	_ = n.conn.Close()
	if n.Runtime != nil {
		_ = n.Runtime.Close(ctx)
	}
	if n.Images != nil {
		_ = n.Images.Close(ctx)
	}
	n.conn, n.Runtime, n.Images = nil, nil, nil
}

// Pod is a pod as kubelet would ask this node for.
func (n *Node) Pod(name string) kubelet.Pod {
	return kubelet.Pod{
		Name: name, Namespace: "e2e", CgroupParent: n.CgroupParent,
		UID: kubelet.NewUID(), LogDirectory: filepath.Join(n.Logs, name+"-"+kubelet.NewUID()[:8]),
	}
}

// Pull pulls an image without credentials.
func (n *Node) Pull(ctx context.Context, ref string) error {
	_, err := n.Images.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	return err
}

// Package client connects the command line to the daemon.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// DefaultAddress is where the daemon listens unless told otherwise.
const DefaultAddress = "unix:///run/cri-node/cri.sock"

// AddressVariable is the environment variable that names another address.
const AddressVariable = "CRI_NODE_ADDRESS"

// maxMessage is the largest answer taken: a long list.
const maxMessage = 64 << 20

// Node is a daemon, as the command line sees it.
type Node struct {
	Containers nodev1.ContainersClient
	Images     nodev1.ImagesClient
	Builder    nodev1.BuilderClient
	System     nodev1.SystemClient
	// Runtime and ImageService are CRI's.
	Runtime      runtimeapi.RuntimeServiceClient
	ImageService runtimeapi.ImageServiceClient

	conn *grpc.ClientConn
}

// Flags say which daemon is meant.
type Flags struct {
	// Address is empty for that of the environment, or the default.
	Address string
}

// address is where to connect to.
func (f *Flags) address() string {
	return cmp.Or(f.Address, os.Getenv(AddressVariable), DefaultAddress)
}

// socket is the path of the daemon's socket.
func (f *Flags) socket() (string, error) {
	address := f.address()
	path := strings.TrimPrefix(address, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the address %q (--address or $%s) is none: it is unix:// and the path of a socket, such as %s", address, AddressVariable, DefaultAddress)
	}
	return path, nil
}

// Open returns the daemon, which is called with the first request. The caller
// closes it.
func (f *Flags) Open() (*Node, error) {
	socket, err := f.socket()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", f.address(), err)
	}
	return &Node{
		Containers:   nodev1.NewContainersClient(conn),
		Images:       nodev1.NewImagesClient(conn),
		Builder:      nodev1.NewBuilderClient(conn),
		System:       nodev1.NewSystemClient(conn),
		Runtime:      runtimeapi.NewRuntimeServiceClient(conn),
		ImageService: runtimeapi.NewImageServiceClient(conn),
		conn:         conn,
	}, nil
}

// With calls do with the daemon, and puts its error in words.
func (f *Flags) With(ctx context.Context, do func(context.Context, *Node) error) error {
	node, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }() // all answers have been read
	return f.Explain(do(ctx, node))
}

// IsNotFound reports whether the daemon said that it does not have something.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// Close ends the connection.
func (n *Node) Close() error { return n.conn.Close() }

// ExitError is a command's wish to end with a code, and with Err printed where it
// is not nil.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Explain puts an error of a call in words for a person.
func (f *Flags) Explain(err error) error {
	if exit, ok := errors.AsType[*ExitError](err); ok {
		if exit.Err == nil {
			return err
		}
		return &ExitError{Code: exit.Code, Err: f.Explain(exit.Err)}
	}
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	if s.Code() == codes.Unavailable && strings.Contains(s.Message(), "connection error") {
		return f.unreachable(s.Message())
	}
	if s.Code() == codes.Unavailable && strings.Contains(s.Message(), "error reading from server") {
		return fmt.Errorf("the connection to the cri-node daemon at %s has broken: it ended or was restarted; containers go on without it", f.address())
	}
	if s.Code() == codes.Unimplemented || strings.Contains(s.Message(), "code = Unimplemented") {
		return fmt.Errorf("the daemon at %s does not know this call: it is of another version (%s)", f.address(), plain(s.Message()))
	}
	return errors.New(plain(s.Message()))
}

// unreachable says what a person can do about a connection that failed.
func (f *Flags) unreachable(cause string) error {
	switch {
	case strings.Contains(cause, unix.EACCES.Error()):
		return fmt.Errorf("no permission to talk to the cri-node daemon at %s: its socket is for root, and the group that server.socket_gid names in its configuration", f.address())
	case strings.Contains(cause, unix.ENOENT.Error()), strings.Contains(cause, unix.ECONNREFUSED.Error()):
		return fmt.Errorf("cannot connect to the cri-node daemon at %s. Is it running? (`cri-node serve` starts it)", f.address())
	}
	return fmt.Errorf("cannot talk to the cri-node daemon at %s: %s", f.address(), strings.TrimPrefix(cause, "connection error: desc = "))
}

// plain leaves the words of the protocol out of a message: "rpc error: code = X
// desc = ".
func plain(message string) string {
	for {
		before, rest, found := strings.Cut(message, "rpc error: code = ")
		_, after, whole := strings.Cut(rest, " desc = ")
		if !found || !whole {
			return message
		}
		message = before + after
	}
}

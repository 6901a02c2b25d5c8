package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestExplain(t *testing.T) {
	f := &Flags{Address: "/x.sock"}
	call := status.Error(codes.NotFound, `no container "web"`)
	for want, err := range map[string]error{
		`no container "web"`:       call,
		`copy: no container "web"`: fmt.Errorf("copy: %w", call),
		"plain":                    errors.New("plain"),
		"cannot connect to the cri-node daemon at /x.sock. Is it running? (`cri-node serve` starts it)":                                                    status.Error(codes.Unavailable, "connection error: desc = \"transport: Error while dialing: dial unix /x.sock: connect: connection refused\""),
		"no permission to talk to the cri-node daemon at /x.sock: its socket is for root, and the group that server.socket_gid names in its configuration": status.Error(codes.Unavailable, "connection error: desc = \"dial unix /x.sock: connect: permission denied\""),
		"the connection to the cri-node daemon at /x.sock has broken: it ended or was restarted; containers go on without it":                              status.Error(codes.Unavailable, "error reading from server: EOF"),
		"cannot talk to the cri-node daemon at /x.sock: broken":                                                                                            status.Error(codes.Unavailable, "connection error: desc = broken"),
		"the daemon at /x.sock does not know this call: it is of another version (no such method)":                                                         status.Error(codes.Unknown, "rpc error: code = Unimplemented desc = no such method"),
	} {
		if got := f.Explain(err); got == nil || got.Error() != want {
			t.Errorf("%v is explained as %q, want %q", err, got, want)
		}
	}
	if err := f.Explain(nil); err != nil {
		t.Error(err)
	}
	got := f.Explain(&ExitError{Code: 125, Err: call})
	if exit, ok := errors.AsType[*ExitError](got); !ok || exit.Code != 125 || exit.Error() != `no container "web"` {
		t.Errorf("%v", got)
	}
	if got := f.Explain(&ExitError{Code: 7}); got.Error() != "exit code 7" {
		t.Errorf("%v", got)
	}
}

func TestAddress(t *testing.T) {
	t.Setenv(AddressVariable, "")
	for address, want := range map[string]string{"": "/run/cri-node/cri.sock", "/x": "/x", "unix:///x": "/x"} {
		if got, err := (&Flags{Address: address}).socket(); err != nil || got != want {
			t.Errorf("%q is the socket %q, %v, want %q", address, got, err, want)
		}
	}
	for _, address := range []string{"tcp://127.0.0.1:1", "x", "unix://x", "http://x", "unix://"} {
		if _, err := (&Flags{Address: address}).Open(); err == nil || !strings.Contains(err.Error(), AddressVariable) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

package client

import (
	"errors"
	"fmt"
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
		"cannot connect to the cri-node daemon at /x.sock. Is it running? (`cri-node serve` starts it)": status.Error(codes.Unavailable, "connection error: desc = x"),
		"the daemon at /x.sock does not know this call: it is of another version (no such method)":      status.Error(codes.Unknown, "rpc error: code = Unimplemented desc = no such method"),
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

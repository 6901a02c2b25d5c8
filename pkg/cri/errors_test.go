package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestToStatus(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		code    codes.Code
		message string
	}{
		"none":                                {nil, codes.OK, ""},
		"not found":                           {fmt.Errorf("container %q: %w", "x", errdefs.ErrNotFound), codes.NotFound, `container "x": not found`},
		"a missing file is no missing object": {fmt.Errorf("open: %w", fs.ErrNotExist), codes.Unknown, "open: file does not exist"},
		"invalid":                             {errdefs.ErrInvalidArgument, codes.InvalidArgument, ""},
		"precondition":                        {errdefs.ErrFailedPrecondition, codes.FailedPrecondition, ""},
		"deadline":                            {fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, ""},
		"cancelled":                           {fmt.Errorf("x: %w", context.Canceled), codes.Canceled, ""},
		"unavailable":                         {errShuttingDown, codes.Unavailable, ""},
		"unimplemented":                       {errdefs.ErrNotImplemented, codes.Unimplemented, ""},
		"data loss":                           {fmt.Errorf("pull image: %w", errdefs.ErrDataLoss), codes.DataLoss, "pull image: data loss"},
		"aborted":                             {errdefs.ErrAborted, codes.Aborted, ""},
		"unauthenticated":                     {errdefs.ErrUnauthenticated, codes.Unauthenticated, ""},
		"token goes first":                    {fmt.Errorf("pull image: %w", errors.New("RegistryUnavailable: dial")), codes.Unknown, "RegistryUnavailable: dial"},
		"not UTF-8":                           {errors.New("a\xffb"), codes.Unknown, "a?b"},
		"deadline and undo":                   {errors.Join(context.DeadlineExceeded, errdefs.ErrNotFound), codes.DeadlineExceeded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := status.Convert(toStatus(test.err))
			if got.Code() != test.code || test.message != "" && got.Message() != test.message {
				t.Fatalf("got %v %q", got.Code(), got.Message())
			}
		})
	}
}

func TestExpandSlice(t *testing.T) {
	for slice, want := range map[string]string{
		"-.slice":                          "/",
		"test.slice":                       "/test.slice",
		"kubepods-burstable.slice":         "/kubepods.slice/kubepods-burstable.slice",
		"kubepods-besteffort-pod1_2.slice": "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
	} {
		if got := expandSlice(slice); got != want {
			t.Errorf("expandSlice(%q) = %q, want %q", slice, got, want)
		}
	}
}

func TestCgroupParent(t *testing.T) {
	for _, test := range []struct {
		systemd         bool
		requested, want string
		bad             bool
	}{
		{false, "", "/cri-node", false},
		{false, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1", false},
		{false, "kubepods", "/kubepods", false},
		{false, "/test.slice", "", true},
		{false, "/../..", "", true},
		{false, "/", "", true},
		{true, "", "/cri-node", false},
		{true, "/test.slice", "test.slice", false},
		{true, "/kubepods.slice/kubepods-burstable.slice", "kubepods-burstable.slice", false},
		{true, "/kubepods", "", true},
		{true, ".slice", "", true},
		{true, "a..b.slice", "", true},
	} {
		s := &Server{config: Config{SystemdCgroup: test.systemd, CgroupRoot: "/cri-node"}}
		got, err := s.cgroupParent(test.requested)
		if got != test.want || (err != nil) != test.bad || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("systemd %v, %q: %q, %v", test.systemd, test.requested, got, err)
		}
	}
}

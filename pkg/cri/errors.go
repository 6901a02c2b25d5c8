package cri

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// tokens are what kubelet looks for at the start of an error message. It finds
// them only in errors of code Unknown (k8s.io/cri-api/pkg/errors).
var tokens = []string{
	crierrors.ErrRegistryUnavailable.Error(),
	crierrors.ErrSignatureValidationFailed.Error(),
	crierrors.ErrRROUnsupported.Error(),
	crierrors.ErrImageVolumeMountFailed.Error(),
}

// toStatus is the one place where an error gets its gRPC code.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	message := strings.ToValidUTF8(err.Error(), "?")
	if i := tokenAt(message); i >= 0 {
		return status.Error(codes.Unknown, message[i:])
	}
	return status.Error(code(err), message)
}

// tokenAt finds one of kubelet's tokens in a message that may have been
// wrapped on its way up; -1 where there is none.
func tokenAt(message string) int {
	for _, token := range tokens {
		if i := strings.Index(message, token+":"); i >= 0 {
			return i
		}
	}
	return -1
}

func code(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled) || errdefs.IsCanceled(err):
		return codes.Canceled
	case errdefs.IsInvalidArgument(err):
		return codes.InvalidArgument
	case errdefs.IsNotFound(err):
		return codes.NotFound
	case errdefs.IsAlreadyExists(err):
		return codes.AlreadyExists
	case errdefs.IsFailedPrecondition(err):
		return codes.FailedPrecondition
	case errdefs.IsOutOfRange(err):
		return codes.OutOfRange
	case errdefs.IsResourceExhausted(err):
		return codes.ResourceExhausted
	case errdefs.IsNotImplemented(err):
		return codes.Unimplemented
	case errdefs.IsUnavailable(err):
		return codes.Unavailable
	case errdefs.IsPermissionDenied(err):
		return codes.PermissionDenied
	case errdefs.IsUnauthorized(err):
		return codes.Unauthenticated
	case errdefs.IsAborted(err):
		return codes.Aborted
	case errdefs.IsDataLoss(err):
		return codes.DataLoss
	case errdefs.IsInternal(err):
		return codes.Internal
	}
	return codes.Unknown
}

package spec

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkContainer is a container with the default seccomp profile, the
// largest part of a spec.
func BenchmarkContainer(b *testing.B) {
	in := testInput(b)
	in.Host.Capabilities = allCaps()
	in.security().Seccomp = &runtimeapi.SecurityProfile{}
	in.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: b.TempDir()}}
	for b.Loop() {
		build(b, in)
	}
}

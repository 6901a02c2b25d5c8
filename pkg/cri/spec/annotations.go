package spec

// The annotations that the OCI runtime sees, all of them. Those of pods and
// images never get there: runtimes and hooks act on some, and whoever may write
// a pod would have them act on the host (CVE-2024-3154).
const (
	annotationContainerType    = "io.kubernetes.cri.container-type"
	annotationContainerName    = "io.kubernetes.cri.container-name"
	annotationImageID          = "io.kubernetes.cri.image-id"
	annotationSandboxID        = "io.kubernetes.cri.sandbox-id"
	annotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	annotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationSandboxUID       = "io.kubernetes.cri.sandbox-uid"
)

// annotations fills the fixed set for those who read config.json: people,
// cadvisor and hooks.
func annotations(in *Input) map[string]string {
	pod := in.Sandbox.GetMetadata()
	return map[string]string{
		annotationContainerType:    "container",
		annotationContainerName:    in.Config.GetMetadata().GetName(),
		annotationImageID:          in.ImageID,
		annotationSandboxID:        in.SandboxID,
		annotationSandboxName:      pod.GetName(),
		annotationSandboxNamespace: pod.GetNamespace(),
		annotationSandboxUID:       pod.GetUid(),
	}
}

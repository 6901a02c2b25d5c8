package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/image/signature/signaturetest"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// TestSignaturePolicy: kubelet sees SignatureValidationFailed, nothing of a
// refused image is visible, a namespace has its own rule, and a reload puts
// another policy into force.
func TestSignaturePolicy(t *testing.T) {
	key := signaturetest.NewKey(t)
	rules := fmt.Sprintf(`
[[image.signatures]]
prefix = "%[1]s/signatures"
type = "sigstore"
keys = [%[2]q]
[[image.signatures]]
prefix = "%[1]s/signatures"
namespace = "free"
type = "accept"
`, shared.registry.Addr(), key.File)
	e := ownNode(t, node.Options{Number: 31, Config: rules})
	signed, digest := e.push("signatures/signed:1", image.Spec{Layers: [][]image.File{{image.Text("f", "signed")}}})
	plain, _ := e.push("signatures/plain:1", image.Spec{Layers: [][]image.File{{image.Text("f", "plain")}}})
	e.cosign("signatures/signed", key, digest.String())

	e.pull(signed)
	refused := func() {
		t.Helper()
		_, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: plain}, nil, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "other"}})
		if s := grpcstatus.Convert(err); s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), "SignatureValidationFailed: ") {
			t.Fatalf("pull of an unsigned image gives %v", err)
		}
	}
	refused()
	status, err := e.node.Images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: plain}, false)
	e.must(err)
	if status.GetImage() != nil {
		t.Errorf("the refused image is visible: %v", status.GetImage())
	}
	_, err = e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: plain}, nil, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "free"}})
	e.must(err)
	refused()

	e.must(e.node.Configure(strings.ReplaceAll(rules, "keys =", "dry_run = true\nkeys =")))
	e.must(e.node.Reload())
	e.eventually(10*time.Second, func() error {
		_, err := e.node.Images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: plain}, nil, nil)
		return err
	})
}

// cosign signs a digest of a repository as cosign 2 does.
func (e *env) cosign(repo string, key signaturetest.Key, digest string) {
	e.Helper()
	simple := key.SignSimple(e, digest)
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer(simple.Payload, signaturetest.SimpleType),
		Annotations: simple.Annotations,
	})
	e.must(err)
	_, err = shared.registry.Push(e.Context(), repo+":"+strings.Replace(digest, ":", "-", 1)+".sig", img)
	e.must(err)
}

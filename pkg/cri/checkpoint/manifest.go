package checkpoint

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime"
)

// The names in an archive.
const (
	manifestName = "cri-node.json"
	macName      = "cri-node.mac"
	configName   = "config.dump"
	specName     = "spec.dump"
	diffName     = "rootfs-diff.tar"
	imagesPrefix = "checkpoint/"
)

// version is that of the form of archives.
const version = 1

// Bounds on what is read before it could be verified.
const (
	maxManifest = 16 << 20
	maxFiles    = 1 << 16
)

// Manifest says what an archive holds.
type Manifest struct {
	Version int `json:"version"`
	// Container is where it comes from.
	Container Container `json:"container"`
	// Stdio and TTY are those of runtime.Checkpoint.
	Stdio [3]string `json:"stdio"`
	TTY   bool      `json:"tty,omitempty"`
	// Files are all files but this one and its MAC.
	Files []File `json:"files"`
}

// Container is where a checkpoint comes from.
type Container struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Pod     string `json:"pod"`
	Handler string `json:"handler"`
	// ImageID is the image that the root file system is a change of. ImageRef
	// is a name it had, for people.
	ImageID        string    `json:"imageID"`
	ImageRef       string    `json:"imageRef,omitempty"`
	CreatedAt      time.Time `json:"createdAt"`
	CheckpointedAt time.Time `json:"checkpointedAt"`
}

// File is one file of an archive.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// SHA256 in hexadecimal digits.
	SHA256 string `json:"sha256"`
}

// fileName is what files may be called: one component below checkpoint/, or
// one of the names above. A bound in the pattern would make it a hundred times as
// large in memory.
var fileName = regexp.MustCompile(`^(config\.dump|spec\.dump|rootfs-diff\.tar|checkpoint/[A-Za-z0-9][A-Za-z0-9._-]*)$`)

const maxFileName = len("checkpoint/") + 201

// errUntrusted is the class of all archives that are not ours.
func untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

// parseManifest believes a manifest if its MAC is right.
func (k Key) parseManifest(document []byte, mac string) (*Manifest, error) {
	if !k.verify(document, mac) {
		return nil, untrusted("%s does not match: the checkpoint was changed, or made with the key of other nodes", macName)
	}
	m := &Manifest{}
	if err := json.Unmarshal(document, m); err != nil {
		return nil, untrusted("decode %s: %w", manifestName, err)
	}
	if m.Version != version {
		return nil, fmt.Errorf("checkpoint has version %d, this program reads %d: %w", m.Version, version, errdefs.ErrNotImplemented)
	}
	if len(m.Files) > maxFiles {
		return nil, untrusted("checkpoint has %d files, at most %d are allowed", len(m.Files), maxFiles)
	}
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if len(f.Name) > maxFileName || !fileName.MatchString(f.Name) || f.Size < 0 || seen[f.Name] {
			return nil, untrusted("file %.100q in %s is not one a checkpoint has", f.Name, manifestName)
		}
		seen[f.Name] = true
	}
	for _, name := range []string{specName, diffName} {
		if !seen[name] {
			return nil, untrusted("checkpoint has no %s", name)
		}
	}
	return m, m.Point("").Validate()
}

// Point is the state of the processes in a directory that the archive was
// unpacked to.
func (m *Manifest) Point(images string) runtime.Checkpoint {
	return runtime.Checkpoint{Images: images, Stdio: m.Stdio, TTY: m.TTY}
}

package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// podName is the file that makes a directory a checkpoint of a pod. It has its
// MAC in itself.
const podName = "pod.json"

// Pod says what is in a directory with the checkpoint of a pod: this file,
// and an archive for each container.
type Pod struct {
	ID         string   `json:"id"`
	Containers []Member `json:"containers"`
}

// Member is one container of a pod.
type Member struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Archive string `json:"archive"`
}

// signedPod is what the file holds.
type signedPod struct {
	Version int             `json:"version"`
	Pod     json.RawMessage `json:"pod"`
	MAC     string          `json:"mac"`
}

var archiveName = regexp.MustCompile(`^container-[0-9]{1,5}\.tar$`)

// WritePod completes the directory of a pod's checkpoint.
func (k Key) WritePod(dir string, p Pod) error {
	pod, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode checkpoint of a pod: %w", err)
	}
	document, err := json.Marshal(signedPod{Version: version, Pod: pod, MAC: k.sign(pod)})
	if err != nil {
		return fmt.Errorf("encode checkpoint of a pod: %w", err)
	}
	return linux.WriteFileAtomic(filepath.Join(dir, podName), document, 0o600, linux.SurvivePower)
}

// ReadPod verifies and returns what is in a directory with the checkpoint of a
// pod. Its archives have yet to be verified.
func (k Key) ReadPod(dir string) (_ *Pod, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, untrusted("open checkpoint: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f, err := openRegular(root, podName)
	if err != nil {
		return nil, err
	}
	document, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", podName, err)
	}
	var s signedPod
	if err := json.Unmarshal(document, &s); err != nil {
		return nil, untrusted("decode %s: %w", podName, err)
	}
	if s.Version != version || !k.verify(s.Pod, s.MAC) {
		return nil, untrusted("%s does not match its MAC: the checkpoint was changed, or made with the key of other nodes", podName)
	}
	p := &Pod{}
	if err := json.Unmarshal(s.Pod, p); err != nil {
		return nil, untrusted("decode %s: %w", podName, err)
	}
	names := map[string]bool{}
	for _, m := range p.Containers {
		if !archiveName.MatchString(m.Archive) || m.Name == "" || names[m.Name] {
			return nil, untrusted("container %.100q in %s", m.Name, podName)
		}
		names[m.Name] = true
	}
	if len(names) == 0 {
		return nil, untrusted("%s has no container", podName)
	}
	return p, nil
}

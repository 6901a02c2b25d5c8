package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cri-node/cri-node/pkg/node/health"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/node/restart"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// record is what is kept of a container besides what CRI has of it.
type record struct {
	ID        string    `json:"id"`
	PodID     string    `json:"podID"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
	// Creating: a Create is under way. One that is found so when the daemon
	// starts did not finish, and is undone.
	Creating bool `json:"creating,omitempty"`
	// Removing: it is to go, and TakeVolumes with the volumes that were made for it.
	// What is found so when the daemon starts is removed.
	Removing    bool `json:"removing,omitempty"`
	TakeVolumes bool `json:"takeVolumes,omitempty"`
	// Joined: the pod is another container's.
	Joined bool `json:"joined,omitempty"`
	// Request is a nodev1.CreateRequest in its wire form, without what CRI keeps.
	Request []byte `json:"request,omitempty"`
	// Image as it was asked for, and Command as image and request together say.
	Image   string   `json:"image,omitempty"`
	Command []string `json:"command,omitempty"`

	Restart     restart.Policy `json:"restart,omitzero"`
	AutoRemove  bool           `json:"autoRemove,omitempty"`
	StopTimeout *int64         `json:"stopTimeout,omitempty"`
	Health      *health.Config `json:"health,omitempty"`
	// LogMaxSize bounds the log's files, and LogMaxFiles how many there are; 0 is no
	// bound.
	LogMaxSize  int64        `json:"logMaxSize,omitempty"`
	LogMaxFiles uint32       `json:"logMaxFiles,omitempty"`
	Networks    []membership `json:"networks,omitempty"`
	Volumes     []mounted    `json:"volumes,omitempty"`

	// Started: it has run. Stopped: somebody asked for its end.
	Started bool `json:"started,omitempty"`
	Stopped bool `json:"stopped,omitempty"`
	// Restarts counts what the restart policy did since somebody started the
	// container, and Wait is how long it waited the last time.
	Restarts uint32        `json:"restarts,omitempty"`
	Wait     time.Duration `json:"wait,omitempty"`
	// HealthStatus is the last one of the present run.
	HealthStatus health.Status `json:"healthStatus,omitempty"`
}

// membership in a named group of containers that know one another by name.
type membership struct {
	Network string   `json:"network"`
	Aliases []string `json:"aliases,omitempty"`
}

// mounted is a volume of a container.
type mounted struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	Readonly bool   `json:"readonly,omitempty"`
	// Anonymous: it was made for this container and goes with it.
	Anonymous bool `json:"anonymous,omitempty"`
	// Made by the Create that is under way.
	Made bool `json:"made,omitempty"`
}

// request decodes what was asked beyond CRI; of a broken record it is empty.
func (r *record) request() *nodev1.CreateRequest {
	request := &nodev1.CreateRequest{}
	_ = proto.Unmarshal(r.Request, request)
	return request
}

// Where things are.
func (s *Server) dir(names ...string) string {
	return filepath.Join(append([]string{s.config.Root, "node"}, names...)...)
}

func (s *Server) recordPath(id string) string { return s.dir("containers", id+".json") }
func (s *Server) logPath(id string) string    { return s.dir("logs", id+".log") }

func (s *Server) save(r *record) error {
	if err := linux.SaveRecord(s.recordPath(r.ID), r, linux.SurviveProcess); err != nil {
		return fmt.Errorf("save container %s: %w", r.ID, err)
	}
	return nil
}

// loadRecords reads all records. One that cannot be believed has its id alone.
func (s *Server) loadRecords() ([]record, error) {
	entries, err := os.ReadDir(s.dir("containers"))
	if err != nil {
		return nil, fmt.Errorf("read records of containers: %w", err)
	}
	var records []record
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			_ = os.Remove(s.dir("containers", e.Name())) // what an interrupted write left
			continue
		}
		r, _, err := linux.LoadRecord[record](s.recordPath(id))
		if err != nil && !errors.Is(err, linux.ErrBroken) {
			return nil, fmt.Errorf("load container %s: %w", id, err)
		}
		if err != nil || r.ID != id {
			r = record{ID: id, Name: "broken-" + short(id), Started: true, Stopped: true}
			if c, err := s.config.Containers.Get(id); err == nil {
				r.PodID = c.Status().Group
			}
		}
		records = append(records, r)
	}
	return records, nil
}

// removeLogs removes the log of a container and what was rotated out of it.
func (s *Server) removeLogs(id string) error {
	files, err := filepath.Glob(s.logPath(id) + "*")
	for _, f := range files {
		if e := os.Remove(f); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

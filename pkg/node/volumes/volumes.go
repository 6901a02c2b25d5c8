package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Volume is one directory.
type Volume struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"createdAt"`
	// Anonymous: nobody gave it a name, and it goes with its container.
	Anonymous bool `json:"anonymous,omitempty"`
}

// Store keeps volumes in a directory.
type Store struct {
	dir string

	mu   sync.Mutex
	byID map[string]Volume
}

// Open reads the volumes of a directory, which is made where it does not exist,
// and removes what a crash left. If some of that stays, there is a Store as well as
// an error.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, byID: map[string]Volume{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue // nobody's that we know
		}
		if linux.IsTrash(e.Name()) {
			err = errors.Join(err, linux.RemoveAll(filepath.Join(dir, e.Name())))
			continue
		}
		v, _, loadErr := linux.LoadRecord[Volume](s.record(e.Name()))
		switch {
		case errors.Is(loadErr, fs.ErrNotExist):
			err = errors.Join(err, linux.Discard(filepath.Join(dir, e.Name())))
			continue
		case errors.Is(loadErr, linux.ErrBroken): // what is in it may be dear to somebody
			v = Volume{}
		case loadErr != nil:
			return nil, fmt.Errorf("open volume %s: %w", e.Name(), loadErr)
		}
		v.Name = e.Name()
		s.byID[v.Name] = v
	}
	if err != nil {
		err = fmt.Errorf("remove unfinished volumes: %w", err)
	}
	return s, err
}

func (s *Store) record(name string) string { return filepath.Join(s.dir, name, "volume.json") }

// Path is the directory that containers see. The name must be a valid one.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name, "data") }

// nameBytes is how much chance is in the name of an anonymous volume.
const nameBytes = 32

// NewName returns the name of an anonymous volume.
func NewName() string {
	var b [nameBytes]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// IsNewName reports whether NewName could have made a name.
func IsNewName(name string) bool {
	return len(name) == 2*nameBytes && strings.Trim(name, "0123456789abcdef") == ""
}

// Create makes a volume, which is empty and belongs to root. One of the name
// that is there already is returned as it is, and made says false. The caller
// has checked the name.
func (s *Store) Create(v Volume) (_ Volume, made bool, err error) { return s.CreateFilled(v, nil) }

// CreateFilled is Create for a volume that has something in it from the start:
// fill is called with its directory, and where it fails there is no volume.
func (s *Store) CreateFilled(v Volume, fill func(dir string) error) (_ Volume, made bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if had, ok := s.byID[v.Name]; ok {
		return had, false, nil
	}
	dir := filepath.Join(s.dir, v.Name)
	if err := linux.Discard(dir); err != nil { // what a Create left that failed
		return Volume{}, false, fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	v.CreatedAt = time.Now()
	err = errors.Join(os.MkdirAll(s.Path(v.Name), 0o755), os.Chmod(s.Path(v.Name), 0o755)) //nolint:gosec // containers' users read it
	if err == nil && fill != nil {
		err = fill(s.Path(v.Name))
	}
	if err == nil {
		err = linux.SaveRecord(s.record(v.Name), v, linux.SurviveProcess)
	}
	if err != nil {
		return Volume{}, false, fmt.Errorf("create volume %s: %w", v.Name, errors.Join(err, linux.Discard(dir)))
	}
	s.byID[v.Name] = v
	return v, true, nil
}

// Get returns a volume.
func (s *Store) Get(name string) (Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.byID[name]
	if !ok {
		return Volume{}, fmt.Errorf("volume %.100q: %w", name, errdefs.ErrNotFound)
	}
	return v, nil
}

// List returns all volumes by name.
func (s *Store) List() []Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Volume, 0, len(s.byID))
	for _, v := range s.byID {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b Volume) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Remove takes a volume away, at once; erase then deletes what was in it, which
// may take long and so is for whoever holds no lock, or else the next Open does.
// A volume that is not there is a success.
func (s *Store) Remove(name string) (erase func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	erase = func() error { return nil }
	if _, ok := s.byID[name]; !ok {
		return erase, nil
	}
	trash, err := linux.SetAside(filepath.Join(s.dir, name))
	if err != nil {
		return nil, fmt.Errorf("remove volume %s: %w", name, err)
	}
	delete(s.byID, name)
	if trash != "" {
		erase = func() error {
			if err := linux.RemoveAll(trash); err != nil {
				return fmt.Errorf("delete the files of volume %s, which is gone: %w", name, err)
			}
			return nil
		}
	}
	return erase, nil
}

// Empty reports whether there is nothing in a volume yet.
func (s *Store) Empty(name string) (bool, error) {
	f, err := os.Open(s.Path(name))
	if err != nil {
		return false, fmt.Errorf("look into volume %s: %w", name, err)
	}
	_, err = f.Readdirnames(1)
	empty := errors.Is(err, io.EOF)
	if empty {
		err = nil
	}
	return empty, errors.Join(err, f.Close())
}

// Size is what the files of a volume take on the disk.
func (s *Store) Size(ctx context.Context, name string) (int64, error) {
	var size int64
	err := filepath.WalkDir(s.Path(name), func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		size += onDisk(info)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure volume %s: %w", name, err)
	}
	return size, nil
}

// ignoreGone: what is measured may be changed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

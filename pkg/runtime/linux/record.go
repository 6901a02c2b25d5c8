package linux

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A record is one JSON document that says what should exist:
//
//	{"version":1,"bootID":"…","crc32c":123,"body":{…}}
//
// The checksum covers the bytes of body, so that a torn or edited record is
// noticed and kept aside, not half believed.
type envelope struct {
	Version int             `json:"version"`
	BootID  string          `json:"bootID"`
	CRC32C  uint32          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

// recordVersion is the newest version this program writes and reads.
const recordVersion = 1

// ErrBroken means that a record exists but cannot be believed: it is torn, its
// checksum is wrong or a newer program wrote it.
var ErrBroken = errors.New("broken record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SaveRecord writes body as the record at path, replacing what was there, and
// stamps it with the boot id of now.
func SaveRecord[T any](path string, body T, durability Durability) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode record %s: %w", path, err)
	}
	bootID, err := BootID()
	if err != nil {
		return err
	}
	doc, err := json.Marshal(envelope{Version: recordVersion, BootID: bootID, CRC32C: crc32.Checksum(raw, castagnoli), Body: raw})
	if err != nil {
		return fmt.Errorf("encode record %s: %w", path, err)
	}
	return WriteFileAtomic(path, doc, 0o600, durability)
}

// LoadRecord reads the record at path. sameBoot says whether it was written
// since the machine started; if not, pids, mounts and namespaces it speaks of
// are gone. The error is fs.ErrNotExist where there is no record and ErrBroken
// where there is one that cannot be believed.
func LoadRecord[T any](path string) (body T, sameBoot bool, err error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return body, false, err
	}
	var e envelope
	if err := json.Unmarshal(doc, &e); err != nil {
		return body, false, fmt.Errorf("%w %s: %w", ErrBroken, path, err)
	}
	if e.Version < 1 || e.Version > recordVersion {
		return body, false, fmt.Errorf("%w %s: version %d is not known", ErrBroken, path, e.Version)
	}
	if got := crc32.Checksum(e.Body, castagnoli); got != e.CRC32C {
		return body, false, fmt.Errorf("%w %s: checksum is %08x, want %08x", ErrBroken, path, got, e.CRC32C)
	}
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return body, false, fmt.Errorf("%w %s: %w", ErrBroken, path, err)
	}
	bootID, err := BootID()
	if err != nil {
		return body, false, err
	}
	return body, e.BootID == bootID, nil
}

// RecordIDs lists the directories in dir, each of which belongs to one object
// and is named by its id. A directory that does not exist has none.
func RecordIDs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && !IsTrash(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// trashPrefix marks directories that Discard and SetAside have taken out of sight.
const trashPrefix = ".trash-"

// IsTrash reports whether a directory was discarded but not yet deleted.
func IsTrash(name string) bool {
	return len(name) > len(trashPrefix) && name[:len(trashPrefix)] == trashPrefix
}

// Discard removes an object's directory so that a crash in the middle cannot
// leave half an object: it is renamed out of sight first and deleted then. A
// directory that does not exist is a success.
func Discard(dir string) error {
	parent, name := filepath.Split(filepath.Clean(dir))
	trash := filepath.Join(parent, trashPrefix+name)
	// A trash of the same name is what a crash left; it goes first.
	if err := RemoveAll(trash); err != nil {
		return err
	}
	if err := rename(dir, trash); err != nil {
		return ignoreNotExist(err)
	}
	return RemoveAll(trash)
}

// SetAside is the first half of Discard, for who must not wait for the deleting
// of what may be large while it holds a lock: it returns where the directory is
// now, for RemoveAll; "" if there was none. EmptyTrash finds what is left.
func SetAside(dir string) (trash string, err error) {
	// Another one of this name may come and go while this one is deleted.
	trash = filepath.Join(filepath.Dir(filepath.Clean(dir)), trashPrefix+rand.Text())
	if err := rename(dir, trash); err != nil {
		return "", ignoreNotExist(err)
	}
	return trash, nil
}

// rename moves a directory that nothing is mounted in.
func rename(dir, to string) error {
	mounted, err := MountBelow(dir)
	if err != nil {
		return err
	}
	if mounted != "" {
		return fmt.Errorf("discard %s: still mounted at %s: %w", dir, mounted, unix.EBUSY)
	}
	return os.Rename(dir, to)
}

// EmptyTrash deletes what Discard renamed but a crash kept it from deleting.
func EmptyTrash(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	var errs []error
	for _, e := range entries {
		if IsTrash(e.Name()) || IsTemporary(e.Name()) {
			errs = append(errs, RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// BootIDPath is where the kernel says which boot this is. Tests of a reboot
// point it elsewhere through the environment variable CRI_NODE_BOOT_ID_PATH.
const BootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID returns the id of this boot of the machine.
func BootID() (string, error) {
	path := BootIDPath
	if p := os.Getenv("CRI_NODE_BOOT_ID_PATH"); p != "" {
		path = p
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(trimSpace(b)), nil
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

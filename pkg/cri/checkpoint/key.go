package checkpoint

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// keySize is that of a key, in bytes, and the least that a file may have.
const keySize = 32

// maxKey is the most that a key file may have.
const maxKey = 4096

// Key proves where an archive comes from.
type Key struct{ secret []byte }

// LoadKey reads the key in a file that only its owner may read. Where there is
// no file it makes one with a new key.
func LoadKey(file string) (Key, error) {
	secret, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(file)
	}
	if err != nil {
		return Key{}, fmt.Errorf("read checkpoint key: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return Key{}, fmt.Errorf("read checkpoint key: %w", err)
	}
	switch {
	case info.Mode().Perm()&0o077 != 0:
		return Key{}, fmt.Errorf("checkpoint key %s can be read by others than its owner (mode %o)", file, info.Mode().Perm())
	case len(secret) < keySize || len(secret) > maxKey:
		return Key{}, fmt.Errorf("checkpoint key %s has %d bytes, want %d to %d", file, len(secret), keySize, maxKey)
	}
	return Key{secret}, nil
}

func makeKey(file string) (Key, error) {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	if err := linux.WriteFileAtomic(file, secret, 0o600, linux.SurvivePower); err != nil {
		return Key{}, fmt.Errorf("write checkpoint key: %w", err)
	}
	return Key{secret}, nil
}

// sign makes the MAC of a document, as text.
func (k Key) sign(document []byte) string {
	h := hmac.New(sha256.New, k.secret)
	h.Write(document)
	return hex.EncodeToString(h.Sum(nil))
}

// verify reports whether mac is that of a document.
func (k Key) verify(document []byte, mac string) bool {
	return hmac.Equal([]byte(k.sign(document)), []byte(mac))
}

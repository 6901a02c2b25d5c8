package names

import (
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/containerd/errdefs"
)

// maxLength of a name: that of a label of DNS, because other containers find
// this one by it.
const maxLength = 63

// tries is how many names are made up before one gets a number.
const tries = 20

// Random returns a name that is not taken.
func Random(taken func(name string) bool) string {
	for {
		for range tries {
			name := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))] //nolint:gosec // no secret
			if !taken(name) {
				return name
			}
		}
		name := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))] + strconv.Itoa(rand.IntN(10_000)) //nolint:gosec // no secret
		if !taken(name) {
			return name
		}
	}
}

// Validate refuses what cannot be a name: it begins with a letter or digit, and
// goes on with those, "_", "." and "-". field says what is named so, in the
// error.
func Validate(field, name string) error {
	if name == "" {
		return fmt.Errorf("%s: is empty: %w", field, errdefs.ErrInvalidArgument)
	}
	if len(name) > maxLength {
		return fmt.Errorf("%s: has %d characters, at most %d are allowed: %w", field, len(name), maxLength, errdefs.ErrInvalidArgument)
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return fmt.Errorf("%s: %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed: %w", field, name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

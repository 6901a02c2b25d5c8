package names

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRandomIsValidAndFree(t *testing.T) {
	taken := map[string]bool{}
	for range 2000 {
		name := Random(func(n string) bool { return taken[n] })
		if taken[name] {
			t.Fatalf("%s twice", name)
		}
		taken[name] = true
		if err := Validate("name", name); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(name, "_") {
			t.Fatalf("%s is no adjective_noun", name)
		}
	}
}

// Where all names without a number are taken, one with a number is found.
func TestRandomWhereAllAreTaken(t *testing.T) {
	plain := func(n string) bool { return !strings.ContainsAny(n, "0123456789") }
	if name := Random(plain); plain(name) {
		t.Errorf("%s is taken", name)
	}
}

func TestWordsAreSingleWords(t *testing.T) {
	for _, list := range [][]string{adjectives[:], nouns[:]} {
		seen := map[string]bool{}
		for _, w := range list {
			if seen[w] || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") != "" {
				t.Errorf("%q is there twice or no plain word", w)
			}
			seen[w] = true
		}
	}
}

func TestValidate(t *testing.T) {
	for name, ok := range map[string]bool{
		"web": true, "Web-1.a_b": true, "0": true,
		"": false, "-web": false, ".": false, "a/b": false, "a b": false, "ä": false, "a\n": false,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
	} {
		err := Validate("name", name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && (!errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "name: ")) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

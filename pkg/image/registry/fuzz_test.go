package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// FuzzAuthFile looks a repository up in whatever a credentials file may hold.
// What comes out is fit for a header, and no error quotes the file.
func FuzzAuthFile(f *testing.F) {
	for _, seed := range []string{
		`{"auths":{"r.test":{"auth":"dXNlcjpwYXNzd29yZA=="}}}`,
		`{"auths":{"https://r.test/v1/":{"username":"user","password":"s3cret"},"r.test/app":{"identitytoken":"t"}}}`,
		`{"auths":{"r.test":{"registrytoken":"t\r\nx: y"},"r.test/":{"auth":"dXNlcg"}}}`,
		`{"auths":{"r.test/app/":{"auth":"dXNlcjpwYXNzd29yZAAA"},"R.TEST":{}}}`,
		`{"credHelpers":{"r.test":"../sh"},"credsStore":1}`,
		`[]`, `null`, `{"auths":{"":null}}`,
	} {
		f.Add([]byte(seed), "app/sub")
	}
	f.Fuzz(func(t *testing.T, b []byte, path string) {
		file, err := parseAuthFile(b)
		if err != nil {
			if !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		// Nothing is to be executed here.
		file.CredHelpers, file.CredsStore = nil, ""
		found, err := file.lookup(t.Context(), Config{}, "r.test", path)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		again, err := file.lookup(t.Context(), Config{}, "r.test", path)
		if err != nil || again != found {
			t.Fatalf("a second look gives another answer: %v", err)
		}
		if strings.ContainsAny(found.username+found.secret+found.bearer, "\r\n\x00") {
			t.Fatalf("credentials %q have a line break or NUL", found)
		}
		if !found.empty() && !mentions(file, "r.test") {
			t.Fatalf("credentials of another registry: %v", file.Auths)
		}
	})
}

// mentions says whether any key could mean the host, in any spelling.
func mentions(f authFile, host string) bool {
	for key := range f.Auths {
		if strings.Contains(strings.ToLower(key), host) {
			return true
		}
	}
	return false
}

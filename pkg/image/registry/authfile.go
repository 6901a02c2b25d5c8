package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// maxAuthFile bounds a docker config file and the answer of a helper.
const maxAuthFile = 1 << 20

// authFile is what we read of docker's config.json.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// fileCredentials looks a repository up in the configured files, in order.
func (c Config) fileCredentials(ctx context.Context, host, path string) (credentials, error) {
	for _, name := range c.AuthFiles {
		f, err := readAuthFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return credentials{}, err
		}
		found, err := f.lookup(ctx, c, host, path)
		if err != nil {
			return credentials{}, fmt.Errorf("credentials for %s from %s: %w", host, name, err)
		}
		if !found.empty() {
			return found, nil
		}
	}
	return credentials{}, nil
}

func readAuthFile(name string) (authFile, error) {
	var a authFile
	f, err := os.Open(name)
	if err != nil {
		return a, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return a, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxAuthFile {
		return a, fmt.Errorf("read %s: larger than %d bytes: %w", name, maxAuthFile, errdefs.ErrFailedPrecondition)
	}
	if a, err = parseAuthFile(b); err != nil {
		return a, fmt.Errorf("read %s: %w", name, err)
	}
	return a, nil
}

func parseAuthFile(b []byte) (a authFile, err error) {
	// The decoder's own error may quote a piece of the file.
	if json.Unmarshal(b, &a) != nil {
		return authFile{}, fmt.Errorf("not a docker config file: %w", errdefs.ErrFailedPrecondition)
	}
	return a, nil
}

// lookup takes a helper for the host first, then the entry with the longest
// matching path, then the general helper.
func (f authFile) lookup(ctx context.Context, c Config, host, path string) (credentials, error) {
	for server, helper := range f.CredHelpers {
		if h, _ := splitServer(server); h == canonicalHost(host) {
			return c.runHelper(ctx, helper, server)
		}
	}
	var best authEntry
	bestKey, bestLen := "", -1
	for key, entry := range f.Auths {
		h, prefix := splitServer(key)
		if h != canonicalHost(host) || !under(path, prefix) || len(prefix) < bestLen {
			continue
		}
		// Two spellings of one registry: the choice must not depend on the
		// order of a map.
		if len(prefix) == bestLen && key > bestKey {
			continue
		}
		best, bestKey, bestLen = entry, key, len(prefix)
	}
	// With a credsStore docker leaves an empty entry as a marker.
	if best != (authEntry{}) {
		a := Auth{Username: best.Username, Password: best.Password, Auth: best.Auth, IdentityToken: best.IdentityToken, RegistryToken: best.RegistryToken}
		if a.IdentityToken != "" {
			a.Username, a.Password = "", "" // docker writes "auth" beside the token
		}
		return a.credentials()
	}
	if f.CredsStore == "" {
		return credentials{}, nil
	}
	server := bestKey
	if server == "" {
		server = host
		if canonicalHost(host) == "docker.io" {
			server = "https://index.docker.io/v1/"
		}
	}
	return c.runHelper(ctx, f.CredsStore, server)
}

// under reports whether repository path lies below prefix.
func under(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

// helperName keeps a file from naming a program outside of PATH.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// runHelper runs docker-credential-NAME get in a clean environment. A helper
// that knows nothing of the server is no error.
func (c Config) runHelper(ctx context.Context, name, server string) (credentials, error) {
	if !helperName.MatchString(name) {
		return credentials{}, fmt.Errorf("credential helper %q is no plain name: %w", name, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, c.HelperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Env = helperEnv()
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(server)
	// A helper's child that keeps the pipe open must not hold up the pull.
	cmd.WaitDelay = c.HelperTimeout / 10
	var out limitedBuffer
	cmd.Stdout = &out
	err := cmd.Run()
	if err != nil {
		if bytes.Contains(bytes.ToLower(out.Bytes()), []byte("credentials not found")) {
			return credentials{}, nil
		}
		return credentials{}, fmt.Errorf("run docker-credential-%s: %w", name, err)
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return credentials{}, fmt.Errorf("docker-credential-%s gave no valid answer: %w", name, errdefs.ErrFailedPrecondition)
	}
	a := Auth{Username: answer.Username, Password: answer.Secret}
	if answer.Username == "<token>" {
		a = Auth{IdentityToken: answer.Secret}
	}
	return a.credentials()
}

// helperEnv passes on what helpers need to find themselves and a proxy.
func helperEnv() []string {
	var env []string
	for _, key := range []string{"PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// limitedBuffer fails a writer that says more than maxAuthFile.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxAuthFile {
		return 0, fmt.Errorf("answer larger than %d bytes", maxAuthFile)
	}
	return b.Buffer.Write(p)
}

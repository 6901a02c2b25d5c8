// Package credentials keeps user names and passwords for registries where docker
// keeps them: in config.json below $DOCKER_CONFIG or ~/.docker. Whatever else is
// in that file stays. Credential helpers are not called.
package credentials

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hubKey is how docker calls its own registry in the file.
const hubKey = "https://index.docker.io/v1/"

// Hub is the registry of names without one.
const Hub = "docker.io"

// entry is what the file has of one registry.
type entry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Path is where the file is.
func Path() (string, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find credentials: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json"), nil
}

// Host is the registry that people mean by an address: without scheme and path,
// and Docker Hub by one name.
func Host(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	address, _, _ = strings.Cut(address, "/")
	switch address = strings.ToLower(address); address {
	case "", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return Hub
	}
	return address
}

// OfImage is the registry of an image's name.
func OfImage(name string) string {
	first, _, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return Hub
	}
	return Host(first)
}

// For finds the credentials for a registry; nil is for none.
func For(host string) (*runtimeapi.AuthConfig, error) {
	all, err := All()
	return all[Host(host)], err
}

// All are the credentials of all registries, by host.
func All() (map[string]*runtimeapi.AuthConfig, error) {
	_, auths, err := load()
	if err != nil {
		return nil, err
	}
	all := map[string]*runtimeapi.AuthConfig{}
	for address, raw := range auths {
		var e entry
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", address, err)
		}
		if e == (entry{}) {
			continue // kept by a helper
		}
		host := Host(address)
		if _, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://"), "/"); all[host] != nil && path != "" {
			continue // for a part of the registry
		}
		all[host] = &runtimeapi.AuthConfig{
			Auth: e.Auth, Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
			ServerAddress: host,
		}
	}
	return all, nil
}

// load reads the file, its fields and those of auths. One that does not exist is
// empty.
func load() (fields, auths map[string]json.RawMessage, err error) {
	fields, auths = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	path, err := Path()
	if err != nil {
		return nil, nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fields, auths, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read credentials: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return fields, auths, nil
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	if raw, ok := fields["auths"]; ok {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return nil, nil, fmt.Errorf("read %s: auths: %w", path, err)
		}
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	return fields, auths, nil
}

// Save keeps credentials for a registry and returns the file they are in.
func Save(host, username, password, identityToken string) (string, error) {
	e := entry{IdentityToken: identityToken}
	if identityToken != "" {
		password = ""
	}
	e.Auth = base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	raw, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	return change(func(auths map[string]json.RawMessage) {
		erase(auths, host)
		auths[key(host)] = raw
	})
}

// Erase forgets the credentials for a registry. It reports whether there were
// any.
func Erase(host string) (bool, error) {
	_, auths, err := load()
	if err != nil || !erase(auths, host) {
		return false, err
	}
	_, err = change(func(auths map[string]json.RawMessage) { erase(auths, host) })
	return true, err
}

func key(host string) string {
	if Host(host) == Hub {
		return hubKey
	}
	return Host(host)
}

func erase(auths map[string]json.RawMessage, host string) (found bool) {
	for address := range auths {
		if Host(address) == Host(host) {
			delete(auths, address)
			found = true
		}
	}
	return found
}

// change writes the file anew, for its owner alone to read.
func change(do func(auths map[string]json.RawMessage)) (string, error) {
	path, err := Path()
	if err != nil {
		return "", err
	}
	fields, auths, err := load()
	if err != nil {
		return "", err
	}
	do(auths)
	if fields["auths"], err = json.Marshal(auths); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(fields, "", "\t")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("keep credentials: %w", err)
	}
	// The file itself, where somebody has linked it elsewhere.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-") // mode 0600
	if err != nil {
		return "", fmt.Errorf("keep credentials: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("keep credentials: %w", err), os.Remove(f.Name()))
	}
	return path, nil
}

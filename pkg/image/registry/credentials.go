package registry

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Auth is the credentials that come with one request, in the forms that CRI
// knows. Precedence: registry token, user name and password, identity token,
// auth.
type Auth struct {
	Username string
	Password string
	// Auth is base64 of "user:password".
	Auth string
	// ServerAddress names the registry the credentials are for. Where it is
	// another than the image's, they are not used.
	ServerAddress string
	// IdentityToken is an OAuth2 refresh token.
	IdentityToken string
	// RegistryToken is sent to the registry as it is, as a bearer token.
	RegistryToken string
}

// credentials is an Auth after parsing. A secret without a user is a refresh
// token.
type credentials struct {
	username, secret string
	bearer           string
}

func (c credentials) empty() bool { return c == credentials{} }

// credentials parses a; a nil Auth has none.
func (a *Auth) credentials() (credentials, error) {
	switch {
	case a == nil:
		return credentials{}, nil
	case strings.ContainsAny(a.Username+a.Password+a.IdentityToken+a.RegistryToken, "\r\n\x00"):
		return credentials{}, fmt.Errorf("registry credentials hold a line break or NUL: %w", errdefs.ErrInvalidArgument)
	case a.RegistryToken != "":
		return credentials{bearer: a.RegistryToken}, nil
	case a.Username != "" || a.Password != "":
		return credentials{username: a.Username, secret: a.Password}, nil
	case a.IdentityToken != "":
		return credentials{secret: a.IdentityToken}, nil
	case a.Auth != "":
		return decodeBasic(a.Auth)
	default:
		return credentials{}, nil
	}
}

// server returns the registry that the credentials were given for, "" for the
// image's own.
func (a *Auth) server() string {
	if a == nil {
		return ""
	}
	host, _ := splitServer(a.ServerAddress)
	return host
}

// decodeBasic parses base64 of "user:password", with or without padding. Some
// writers fill the field up with NUL.
func decodeBasic(s string) (credentials, error) {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(s)
	}
	if err != nil {
		// The library's error quotes no input, but says nothing useful either.
		return credentials{}, fmt.Errorf("field auth of the registry credentials is not base64: %w", errdefs.ErrInvalidArgument)
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if !ok || strings.ContainsAny(user+password, "\r\n\x00") {
		return credentials{}, fmt.Errorf("field auth of the registry credentials is not base64 of user:password: %w", errdefs.ErrInvalidArgument)
	}
	return credentials{username: user, secret: password}, nil
}

// splitServer parses the many spellings of a registry in credential stores:
// "https://index.docker.io/v1/", "quay.io/org", "host:5000". It returns the
// host with docker.io's aliases made one, and a path prefix without slashes
// around it.
func splitServer(server string) (host, path string) {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, path, _ = strings.Cut(server, "/")
	path = strings.Trim(path, "/")
	if path == "v1" || path == "v2" {
		path = ""
	}
	return canonicalHost(host), path
}

// canonicalHost makes the names of Docker Hub one.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	default:
		return host
	}
}

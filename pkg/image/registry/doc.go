// Package registry talks to container registries for one pull at a time: it
// finds the hosts that serve a repository, proves who is asking, resolves a
// name to a digest and streams blobs from any offset.
//
// It stands on containerd's docker resolver, so that the hosts.toml files
// under certs.d that people have go on working, and adds what that leaves to
// its callers:
//
//   - credentials are bound to one scheme, host and port. They never follow a
//     redirect, never go to a mirror they were not given for, and go to a token
//     server only where it belongs to the registry (see checkRealm).
//   - registry_token, identity_token and docker config files with credential
//     helpers, read anew for every pull.
//   - every error is classified (errdefs, ErrUnavailable) and its text holds no
//     secret, because it ends in pod events that many people may read.
//
// The path of a request:
//
//	Session.Resolve/Fetch -> docker resolver -> authorizer (origin only)
//	                                         -> guard (redirects, encodings)
//	                                         -> transport of the host
//
// The package verifies no content: digests and sizes are the business of the
// image store. It writes nothing to disk and caches nothing between sessions.
// A Session may be used by many goroutines; it has no lock of its own beyond
// the list of hosts.
package registry

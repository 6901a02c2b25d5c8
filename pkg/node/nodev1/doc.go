// Package nodev1 is the gRPC API of cri-node for people: what its command line
// needs beyond CRI, served on the same socket.
//
// The .proto files are the reference; `make generate` makes the Go code of them.
// Within v1 fields and calls are added, never changed or taken away.
package nodev1

// Package registry runs a real OCI registry on loopback for the tests and the
// demonstration, with the bad days a registry can have: credentials asked for in
// each form the distribution specification knows, connections reset in the
// middle of a blob, and blobs that stall until a test lets them go on.
//
// It listens twice: Addr is what the node pulls from, with credentials and
// faults; images are pushed through a second, private listener without them.
// What was asked for is recorded (Requests). One mutex guards all settings.
package registry

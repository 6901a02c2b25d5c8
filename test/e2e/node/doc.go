// Package node runs the real daemon for the tests, from outside: its binary, on
// directories, a bridge, a subnet, leases and a cgroup of its own, so that
// nothing of the machine is touched and several nodes can run side by side.
//
//	Start ─► running ─► Kill ─► dead ─► Restart ─► running ─► Close
//	            │                  ▲
//	            └──── Reboot ──────┘   (kills all, takes the state directory away)
//
// A node lives in one temporary directory:
//
//	config.toml  net.d/  root/  state/  leases/  logs/  gate/  daemon.log  boot_id
//
// Close stops the daemon and the monitor. Purge then takes away by force what a
// broken daemon left on the machine; a test calls it last, after the leak check
// has said its word, so that one failure does not become ten. A process beside
// (test/e2e/sweeper) does it where the tests are killed before.
package node

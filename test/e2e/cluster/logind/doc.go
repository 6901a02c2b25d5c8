// Package logind stands in for systemd-logind on a bus of its own, so that a test
// can tell kubelet that the machine is about to be shut down without doing it:
// kubelet holds a delay lock (Lock) and lets go of it when its pods have ended.
//
//	Start ─► kubelet calls Inhibit ─► Lock ─► Shutdown(true) ─► Lock.Released
//
// The interface is org.freedesktop.login1(5); the bus is dbus-daemon's.
package logind

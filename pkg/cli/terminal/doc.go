// Package terminal connects the terminal of a person with a process in a
// container: raw mode, sizes, detach keys, signals, and the streams of the
// daemon's Attach and Exec.
//
//	stdin ──► Detacher ──► Conn.Send ──► daemon
//	SIGWINCH, signals ───► Conn.Send
//	stdout, stderr ◄────── Conn.Recv ◄── daemon
//
// A Session owns the terminal while it runs and gives it back as it was,
// however it ends.
package terminal

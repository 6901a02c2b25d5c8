// Package process runs the programs of a cluster: each in a session of its own,
// with a log, and somebody who waits for it.
//
//	Start ─► running ─► Kill or Stop ─► ended ─► Start, of the same Spec
//
// Beside the log NAME.log there is NAME.json, by which a later program of tests
// finds the process again (Attach). Nothing ends the processes with the tests:
// that is for the cage they are in.
package process

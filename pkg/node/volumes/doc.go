// Package volumes keeps directories that outlive containers, by name.
//
//	<dir>/<name>/volume.json  what it is (linux.SaveRecord)
//	<dir>/<name>/data/        what containers see
//
// A volume is there once its record is: a directory without one is what a crash
// left of a Create, and is removed by Open or written over by the next Create.
// A directory being deleted is first renamed to ".trash-<name>".
//
// It does not know who mounts a volume; the caller does, and must keep Remove
// from a volume that is in use. Store.mu serialises changes.
package volumes

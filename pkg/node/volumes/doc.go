// Package volumes keeps directories that outlive containers, by name.
//
//	<dir>/<name>/volume.json  what it is (linux.SaveRecord)
//	<dir>/<name>/data/        what containers see
//
// A volume is there once its record is: a directory without one is what a crash
// left of a Create, and is removed by Open or written over by the next Create.
// A directory being deleted is first renamed to ".trash-…"; Open deletes those that
// a crash left.
//
// It does not know who mounts a volume; the caller does, and must keep Remove
// from a volume that is in use. Store.mu serialises changes and is held for none
// that takes long, but for the filling of a new volume.
package volumes

// Package logs reads the logs of containers, in the form of CRI, as they are and
// as they grow.
//
//	<path>                           what is being written
//	<path>.<time>, <path>.<time>.gz  what was rotated out of it, by whoever does
//
// Each line of a file is one record:
//
//	2026-01-02T15:04:05.000000001Z stdout F text
//
// F ends a line of the container's, P is a part of one. What is none of this is
// passed over: a crash may have cut a record short.
//
// The last lines are found from the end of the newest file. A reader that follows
// waits with inotify(7), and goes from a file that was rotated away under it to
// the next.
package logs

// Package journal remembers the last events and tells new ones to whoever reads.
//
// It is a ring: each event has a number, readers keep the number of the next
// they want and read at their own speed, and what fell out of the ring before a
// slow reader came to it is an error for that reader, not a silence. Nothing is
// on disk; the journal begins anew with the process.
//
// Journal.mu guards everything and is held to move slices alone.
package journal

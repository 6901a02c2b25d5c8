// Package events keeps what happened to containers and pods until those who
// watch have it.
//
// There is one log. Each subscriber has a place in it and reads at its own
// speed, so that an event is kept once however many there are:
//
//	          first              delivered            next
//	            │ what the slowest   │ what nobody has    │
//	            ▼ still needs        ▼ been sent          ▼
//	... ┌──────────────────────────────────────────────────┐
//	    └──────────────────────────────────────────────────┘
//	              ▲ a slow subscriber         ▲ a fast one
//
// A new subscriber begins with what nobody has been sent yet, as one that comes
// back after a short while wants; what another one has had it does not get.
// Such events are kept for some minutes, and fewer of them while nobody
// subscribes.
//
// The log is bounded in events and in bytes. A subscriber whose next event had
// to go is cut off with ErrLost, and has to look at everything anew: nothing is
// left out in silence. One that does not read at all is cut off the same way.
//
// # Locks
//
// Log.mu guards everything and is held only to move positions and slices.
//
// It is not for events that must survive the daemon.
package events

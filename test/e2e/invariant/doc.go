// Package invariant checks from outside that a node leaves nothing behind and
// tells the truth. It reads the kernel and the disk only (mounts, network links,
// cgroups, processes, address leases, packet filter rules, files) and shares no
// code with the daemon, so that one mistake cannot hide in both.
//
// Collect gathers facts; a fact names the object it belongs to by the id in its
// path or text. Two judgements are made of them:
//
//	Check     after every test: each fact belongs to an object the CRI lists,
//	          what the CRI says (running, exited, ready, its addresses) is so,
//	          and the image store is whole: no more and no less than its records say.
//	Residue   at the end, with every pod removed: no fact is left that was not
//	          there before the first pod.
//
// A Watch keeps what a single look cannot show, for the life of a node: that the
// host is as it was, that open files and threads come back, that the past of a
// container does not change, and that known secrets are nowhere.
//
// All describe a quiet node. Settle repeats one until it is satisfied or its
// time is over, since a node may finish freeing things after it has answered.
//
// It is not for measuring, and it changes nothing.
package invariant

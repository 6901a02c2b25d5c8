// Package revision counts the changes of a collection of values, so that what was
// made of all of them is known to be true still without a look at each.
//
// A Counter belongs to the collection, a Pointer to each value in it. A value is
// changed first and counted then: who reads the counter, and the values after it,
// has seen everything that the counter counts. He may have seen more, and will
// then look once too often.
//
// Nothing is on disk, and there are no locks. It is not for telling what has
// changed, for which see package outbox.
package revision

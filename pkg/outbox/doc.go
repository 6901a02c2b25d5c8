// Package outbox keeps what is to be told to somebody in order, until no lock is
// held that the receiver might want.
//
// Who changes something puts the news into the Box under the lock that guards the
// thing, and delivers once it is released. One delivers at a time: who comes
// meanwhile leaves what it has put to that one. News may therefore be received
// after Deliver has returned, though never in another order, nor never.
//
// Nothing is on disk. A Box has a lock of its own, which comes last and is not held
// while the receiver runs; the receiver may put and deliver.
//
// It is not a queue between goroutines: it starts none and nobody waits.
package outbox

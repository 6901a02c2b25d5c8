// Package guard turns panics into errors, so that what is wrong with one request
// or one object does not end the daemon and with it the work on all others.
//
// A goroutine whose panic nobody recovers from ends the process. Each one that
// works for a single request or object runs that work in Call. What a panic left
// half done stays so: locks must be released by defer, and the caller undoes what
// an error makes it undo.
//
// The stack of a panic is logged here, because an error has no room for it. The
// package keeps nothing and has no locks. It is not for faults that are expected.
package guard

// Package restart decides whether a container that has exited is started again,
// and after how long. It does neither itself, and keeps nothing.
//
// The waits are docker's: a tenth of a second, doubled with every exit up to a
// minute, and from the beginning again once a container has run for ten seconds.
package restart

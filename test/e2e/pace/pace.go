// Package pace stretches the patience of the tests on a machine that is slower
// than most, such as an emulated one. CRI_NODE_TEST_SLOWDOWN says how much
// slower: a limit of 10 s is one of 100 s with 10. It is for limits and for the
// number of repetitions only, never for what a test waits on purpose, and it
// keeps no state.
package pace

import (
	"os"
	"strconv"
	"time"
)

// Variable names the environment variable with the factor, 1 when empty.
const Variable = "CRI_NODE_TEST_SLOWDOWN"

// Factor is how much slower the machine is; a value that is no number above 1 is 1.
func Factor() int {
	n, err := strconv.Atoi(os.Getenv(Variable))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Limit is the time that what takes at most d elsewhere may take here.
func Limit(d time.Duration) time.Duration { return d * time.Duration(Factor()) }

// Count is how many of n alike things a test does here: fewer on a slow
// machine, where they would take hours, but at least so many.
func Count(n, least int) int { return max(min(n, least), n/Factor()) }

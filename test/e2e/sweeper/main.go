// Command sweeper takes away a node of tests that ended without doing so: by a
// timeout, a signal or a panic. Package node starts one for each node.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/cri-node/cri-node/test/e2e/node"
)

func main() {
	if err := node.Sweep(context.Background(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "sweeper:", err)
		os.Exit(1)
	}
}

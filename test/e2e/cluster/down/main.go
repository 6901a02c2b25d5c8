// Command down ends a cluster that a run of the tests with CRI_NODE_CLUSTER=DIR has
// kept: go run ./down DIR
package main

import (
	"fmt"
	"os"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: down DIR")
		os.Exit(2)
	}
	if err := cage.Down(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "down:", err)
		os.Exit(1)
	}
}

// Package cli is the command line for people: the verbs they know from container
// workshops, each a request to the daemon's socket.
//
// It sees the daemon through that socket alone (packages nodev1 and CRI) and has
// no mechanism: what must not end with a command belongs to the daemon. Packages
// below it:
//
//	client      the connection, and errors in words
//	output      tables, templates, JSON, sizes and times
//	terminal    raw mode, sizes, detach keys, the streams of attach and exec
//	progress    bars of pulls, pushes and builds
//	containers, images, build, compose, kube, system    the verbs
package cli

import (
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
)

// AddCommands gives the verbs to the root command.
func AddCommands(root *cobra.Command) {
	flags := &client.Flags{}
	root.PersistentFlags().StringVar(&flags.Address, "address", "",
		"`address` of the daemon (default $"+client.AddressVariable+" or "+client.DefaultAddress+")")
}

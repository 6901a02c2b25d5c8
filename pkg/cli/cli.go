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
//	argument    how many words a verb takes, times, pairs
//	complete    what a shell offers when somebody presses tab
//	manual      man pages made of the commands
//	progress    bars of pulls, pushes and loads
//	credentials user names and passwords, where docker keeps them
//	inject      files for a container that has not started
//	doctor      what the machine lacks
//	prune       what the prune of all kinds of things has in common
//	containers, networks, volumes, images, build, compose, kube, system    the verbs
package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/build"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/compose"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/images"
	"github.com/cri-node/cri-node/pkg/cli/kube"
	"github.com/cri-node/cri-node/pkg/cli/manual"
	"github.com/cri-node/cri-node/pkg/cli/networks"
	"github.com/cri-node/cri-node/pkg/cli/system"
	"github.com/cri-node/cri-node/pkg/cli/volumes"
)

// The groups of verbs in the help.
const (
	groupContainers = "containers"
	groupImages     = "images"
	groupSeveral    = "several"
	groupNode       = "node"
)

// exitUsage is docker's exit code for flags nobody knows.
const exitUsage = 125

// AddCommands gives the verbs to the root command.
func AddCommands(root *cobra.Command) {
	flags := &client.Flags{}
	root.PersistentFlags().StringVar(&flags.Address, "address", "",
		"`address` of the daemon (default $"+client.AddressVariable+" or "+client.DefaultAddress+")")
	root.AddGroup(
		&cobra.Group{ID: groupContainers, Title: "Containers:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupSeveral, Title: "Several containers:"},
		&cobra.Group{ID: groupNode, Title: "This machine:"},
	)
	for _, own := range root.Commands() { // serve, config and version
		own.GroupID = groupNode
	}
	add(root, groupContainers, containers.Commands(flags)...)
	add(root, groupContainers, containers.InspectCommand(flags), containers.GroupCommand(flags), networks.Command(flags), volumes.Command(flags))
	add(root, groupImages, images.Commands(flags)...)
	add(root, groupImages, build.Command(flags), build.BuilderCommand(flags), images.GroupCommand(flags, build.Command(flags), containers.InspectKind(flags, "image", "  cri-node image inspect -f '{{.Config.Cmd}}' busybox")))
	add(root, groupSeveral, compose.Command(flags, compose.Tools{Build: buildVerb(flags), Pull: pullImage, Verb: verb(flags)}))
	add(root, groupSeveral, kube.PlayCommand(flags, pullImage), kube.GenerateCommand(flags))
	add(root, groupNode, system.Commands(flags)...)
	add(root, groupNode, complete.ScriptCommand())
	root.AddCommand(manual.Command())
	root.SetHelpCommandGroupID(groupNode)
	finish(root)
}

// add puts verbs into a group of the help.
func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
	}
	root.AddCommand(commands...)
}

// finish gives all commands the behaviour they share.
func finish(root *cobra.Command) {
	root.SuggestionsMinimumDistance = 2
	root.TraverseChildren = true // flags of `compose` come before its verb
	root.Args = noSuchVerb
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if refused, ok := errors.AsType[argument.RefusedFlagError](err); ok {
			err = refused // without the flag's value, which is not what is wrong
		}
		return &client.ExitError{Code: exitUsage, Err: fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())}
	})
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		c.SilenceUsage = true // an error is not drowned in the list of flags
		c.DisableFlagsInUseLine = true
		if c.Args == nil || c.HasSubCommands() && c != root && c.Run == nil {
			c.Args = noSuchVerb
			c.SuggestionsMinimumDistance = 2
		}
		for _, below := range c.Commands() {
			visit(below)
		}
	}
	visit(root)
}

// noSuchVerb refuses arguments of a command that has none, with the verb that was
// perhaps meant.
func noSuchVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := fmt.Sprintf("%q is no command of %s", args[0], cmd.CommandPath())
	if meant := suggestions(cmd, args[0]); len(meant) > 0 {
		message += fmt.Sprintf(". Did you mean %s?", strings.Join(meant, " or "))
	}
	return errors.New(message + "\nSee '" + cmd.CommandPath() + " --help'")
}

// docker's words for what has another name here.
func synonyms() map[string]string {
	return map[string]string{
		"delete": "rm", "remove": "rm", "list": "ps", "ls": "ps", "log": "logs", "shell": "exec", "copy": "cp", "buildx": "build",
		"docker-compose": "compose", "up": "compose up", "down": "compose down", "end": "stop", "halt": "stop", "sh": "exec", "df": "system df",
	}
}

// suggestions are the verbs that a mistyped one may stand for, quoted.
func suggestions(cmd *cobra.Command, typed string) []string {
	meant := cmd.SuggestionsFor(typed)
	if other, ok := synonyms()[strings.ToLower(typed)]; ok && len(meant) == 0 {
		first, _, _ := strings.Cut(other, " ")
		if slices.ContainsFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == first }) {
			meant = append(meant, other)
		}
	}
	for i, m := range meant {
		meant[i] = fmt.Sprintf("%q", cmd.CommandPath()+" "+m)
	}
	return meant[:min(len(meant), 3)]
}

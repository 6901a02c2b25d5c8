// Package manual makes man pages of the commands: one page a command, in roff,
// with what its help says.
package manual

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cri-node/cri-node/pkg/cli/argument"
)

// Command is `cri-node man DIR`, which packages use.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the man pages into a directory",
		Example: "  cri-node man /usr/local/share/man/man1",
		Hidden:  true,
		Args:    argument.Exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return Write(cmd.Root(), args[0])
		},
	}
}

// Write writes the pages of a command, and of those below it, into a directory,
// which it makes.
func Write(c *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return write(c, dir)
}

func write(c *cobra.Command, dir string) error {
	c.InitDefaultHelpFlag()
	file := filepath.Join(dir, name(c)+".1")
	if err := os.WriteFile(file, Page(c), 0o644); err != nil {
		return err
	}
	for _, below := range listed(c) {
		if err := write(below, dir); err != nil {
			return err
		}
	}
	return nil
}

// name is that of a page: cri-node-run.
func name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// listed are the commands below one that help lists.
func listed(c *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, below := range c.Commands() {
		if below.IsAvailableCommand() && !below.IsAdditionalHelpTopicCommand() {
			all = append(all, below)
		}
	}
	return all
}

// Page is the page of one command.
func Page(c *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH %q 1 \"\" \"cri-node\" \"cri-node manual\"\n", strings.ToUpper(name(c)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escape(name(c)), escape(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n\\fB%s\\fP\n.fi\n", escape(c.UseLine()))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, ".PP\nAlso: %s\n", escape(strings.Join(c.Aliases, ", ")))
	}
	if long := c.Long; long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", paragraphs(long))
	}
	flags(&b, "OPTIONS", c.NonInheritedFlags())
	flags(&b, "OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", escape(c.Example))
	}
	seeAlso(&b, c)
	return b.Bytes()
}

func flags(b *bytes.Buffer, title string, set *pflag.FlagSet) {
	var text strings.Builder
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := "\\fB\\-\\-" + escape(f.Name) + "\\fP"
		if f.Shorthand != "" {
			names = "\\fB\\-" + f.Shorthand + "\\fP, " + names
		}
		if value != "" {
			names += " \\fI" + escape(value) + "\\fP"
		}
		fmt.Fprintf(&text, ".TP\n%s\n%s\n", names, escape(usage))
	})
	if text.Len() > 0 {
		fmt.Fprintf(b, ".SH %s\n%s", title, text.String())
	}
}

func seeAlso(b *bytes.Buffer, c *cobra.Command) {
	var pages []string
	if c.HasParent() {
		pages = append(pages, name(c.Parent()))
	}
	for _, below := range listed(c) {
		pages = append(pages, name(below))
	}
	if len(pages) == 0 {
		return
	}
	for i, p := range pages {
		pages[i] = "\\fB" + escape(p) + "\\fP(1)"
	}
	fmt.Fprintf(b, ".SH SEE ALSO\n%s\n", strings.Join(pages, ", "))
}

// paragraphs are parted by empty lines.
func paragraphs(text string) string {
	return strings.ReplaceAll(escape(text), "\n\n", "\n.PP\n")
}

// escape keeps roff from reading text as its own language.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

package cli

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryVerb asks each verb for its help: flags that exclude one another, such
// as two of one letter, show only then.
func TestEveryVerb(t *testing.T) {
	root := &cobra.Command{Use: "cri-node", RunE: func(*cobra.Command, []string) error { return nil }}
	AddCommands(root)
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			c.InitDefaultHelpFlag()
			c.SetOut(io.Discard)
			if err := c.Help(); err != nil {
				t.Error(err)
			}
			if c.Short == "" && c != root {
				t.Error("it has no short description")
			}
			if c.Example == "" && !c.HasSubCommands() && !c.Hidden {
				t.Error("it has no example")
			}
		})
		for _, below := range c.Commands() {
			visit(below)
		}
	}
	visit(root)
}

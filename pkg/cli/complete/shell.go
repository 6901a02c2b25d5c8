package complete

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
)

// withoutPackage stands before the script for bash: where the package
// bash-completion is missing, it has the one function that the script needs of
// it. Words are parted by spaces alone, and not, as bash does it, at = and : too.
const withoutPackage = `if ! declare -F _get_comp_words_by_ref >/dev/null; then
    _get_comp_words_by_ref() {
        local line=${COMP_LINE:0:COMP_POINT}
        read -ra words <<<"$line"
        [[ $line == *[[:space:]] ]] && words+=('')
        cword=$((${#words[@]} - 1))
        cur=${words[cword]} prev=${words[cword > 0 ? cword - 1 : 0]}
    }
fi

`

// ScriptCommand is `cri-node completion SHELL`, which prints what a shell reads.
func ScriptCommand() *cobra.Command {
	scripts := map[string]func(root *cobra.Command, w io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error {
			if _, err := io.WriteString(w, withoutPackage); err != nil {
				return err
			}
			return root.GenBashCompletionV2(w, true)
		},
		"zsh":  (*cobra.Command).GenZshCompletion,
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that lets a shell complete verbs, flags and names",
		Long: "Print a script that lets a shell complete verbs, flags, and names and ids of containers, images and volumes.\n" +
			"`make install` puts it where new shells look for it.",
		Example: "  source <(cri-node completion bash)\n  source <(cri-node completion zsh)\n  cri-node completion fish | source",
		Args:    argument.Exactly(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return matching(shells, nil, toComplete), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			script, ok := scripts[args[0]]
			if !ok {
				return fmt.Errorf("there is no completion for %q: the shell can be %s", args[0], strings.Join(shells, ", "))
			}
			return script(cmd.Root(), cmd.OutOrStdout())
		},
	}
}

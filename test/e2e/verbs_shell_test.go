package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerbsCompletionInBash completes in a bash that has nothing but the script:
// the package bash-completion is not everywhere.
func TestVerbsCompletionInBash(t *testing.T) {
	v := onVerbs(t)
	v.ok("create", "--name", "webserver", "IMAGE", "true")
	for line, want := range map[string]string{
		"cri-node sto":              "stop",
		"cri-node rm webs":          "webserver",
		"cri-node run --pull=al":    "always",
		"cri-node ps --filter heal": "health=",
		"cri-node completion ":      "bash fish zsh",
	} {
		// compopt works only where somebody has pressed tab.
		script := `source <(cri-node completion bash)
			compopt() { :; }
			COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
			__start_cri-node 2>&1
			echo "${COMPREPLY[@]}"`
		cmd := exec.CommandContext(t.Context(), "bash", "--norc", "--noprofile", "-c", script, "bash", line)
		cmd.Env = append(os.Environ(), "CRI_NODE_ADDRESS="+v.node.Endpoint(), "PATH="+filepath.Dir(shared.bin.Node)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		var got []string
		for word := range strings.FieldsSeq(string(out)) {
			if !strings.HasPrefix(word, "(") { // a description
				got = append(got, word)
			}
		}
		if err != nil || !strings.HasPrefix(strings.Join(got, " "), want) {
			t.Errorf("%s completes to %q, %v, want %s", line, out, err, want)
		}
	}
}

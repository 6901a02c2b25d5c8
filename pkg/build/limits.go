package build

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// maxExpansion bounds what a variable of a Dockerfile may grow to: twenty lines
// that each name a variable twice would fill the memory of the node.
const maxExpansion = 1 << 20

// variables in a word: $NAME, ${NAME} and all forms that begin so.
var variable = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// checkExpansion refuses a Dockerfile the variables of which could grow beyond
// any use. It counts too much rather than too little: stages and quotes make no
// difference to it.
func checkExpansion(dockerfile []byte, args map[string]string) error {
	tree, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil //nolint:nilerr // whoever converts it says so better
	}
	if n := len(tree.AST.Children); n > maxVertices {
		return fmt.Errorf("the Dockerfile has %d instructions, at most %d are allowed: %w", n, maxVertices, errdefs.ErrInvalidArgument)
	}
	sizes := map[string]int{}
	for k, v := range args {
		sizes[k] = len(v)
	}
	for _, n := range tree.AST.Children {
		command := strings.ToUpper(n.Value)
		if command != "ENV" && command != "ARG" {
			continue
		}
		size := len(n.Original)
		for _, m := range variable.FindAllStringSubmatch(n.Original, -1) {
			size += sizes[m[1]]
			if size > maxExpansion {
				return fmt.Errorf("line %d: variables grow to more than %d bytes: %w", n.StartLine, maxExpansion, errdefs.ErrInvalidArgument)
			}
		}
		for name := range names(n) {
			sizes[name] = max(size, sizes[name])
		}
	}
	return nil
}

// names are the variables that a line sets.
func names(n *parser.Node) func(func(string) bool) {
	return func(yield func(string) bool) {
		for w := n.Next; w != nil; w = w.Next {
			name, _, _ := strings.Cut(w.Value, "=")
			if !yield(name) {
				return
			}
		}
	}
}

package architecture

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cri-node/cri-node"

// Limits of one file and one function, in lines; comments count.
const (
	maxFile     = 500
	maxFunction = 100
)

// source is one parsed Go file.
type source struct {
	path string // below the module's root
	dir  string
	test bool
	text []byte
	tree *ast.File
	set  *token.FileSet
}

func (s source) line(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.set.Position(pos).Line)
}

// sources parses every Go file below cmd, pkg and test.
//
// The files are read by the test itself: `go test` keeps a result until a file
// that the test process opened changes, and does not see what a child opens.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	for _, top := range []string{"cmd", "pkg", "test"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")) {
				return filepath.SkipDir
			}
			if filepath.Ext(path) != ".go" || strings.HasSuffix(path, ".pb.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			all = append(all, source{
				path: relative, dir: filepath.Dir(relative), test: strings.HasSuffix(path, "_test.go"),
				text: text, tree: tree, set: set,
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) == 0 {
		t.Fatal("no Go files found")
	}
	return all
}

// under reports whether path is prefix or below it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func underAny(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return under(path, p) })
}

// direction says what the files below a directory may not import. Rules of
// several directories apply to a file below all of them.
type direction struct {
	dir string
	// deny lists import paths that are refused with all below them, except
	// those below one in allow.
	deny, allow []string
	// only, where set, lists the only imports outside the standard library.
	only []string
	// tests says whether the rule holds for _test.go files as well.
	tests bool
}

func directions() []direction {
	own := func(dirs ...string) []string {
		paths := make([]string, len(dirs))
		for i, dir := range dirs {
			paths[i] = module + "/" + dir
		}
		return paths
	}
	edge := []string{"k8s.io/cri-api", "k8s.io/cri-client", "google.golang.org/grpc"}
	// What makes and sends spans stays at the edge as well; all others say what
	// they do to pkg/progress.
	edge = append(edge, "go.opentelemetry.io")
	leaf := own("pkg/runtime/linux")
	return []direction{
		{dir: "cmd", deny: own("test"), tests: true},
		{dir: "pkg", deny: own("cmd", "test"), tests: true},
		// The siblings meet in pkg/cri only.
		{dir: "pkg/image", deny: own("pkg/cri", "pkg/sandbox", "pkg/runtime"), allow: leaf, tests: true},
		{dir: "pkg/sandbox", deny: own("pkg/cri", "pkg/image", "pkg/runtime"), allow: leaf, tests: true},
		{dir: "pkg/runtime", deny: own("pkg/cri", "pkg/image", "pkg/sandbox"), tests: true},
		// CRI types and gRPC stay at the edge.
		{dir: "pkg/image", deny: edge},
		{dir: "pkg/sandbox", deny: edge},
		{dir: "pkg/runtime", deny: edge},
		// The monitor is small and hardly ever changes.
		{dir: "pkg/runtime/monitor", only: append([]string{"golang.org/x/sys"}, append(leaf, own("pkg/runtime/monitor")...)...)},
		// What runs before the program is initialised waits for each of its imports.
		{dir: "cmd/cri-node/early", only: own("pkg/runtime/monitor")},
		// The OCI driver knows no containers of ours.
		{dir: "pkg/runtime/oci", deny: own("pkg/runtime"), allow: append(own("pkg/runtime/oci"), leaf...)},
		// The leaves.
		{dir: "pkg/progress", only: []string{"go.opentelemetry.io/otel/trace", "go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/codes"}},
		// The command line sees the daemon through its socket alone.
		{dir: "pkg/cli", deny: own("pkg"), allow: own("pkg/cli", "pkg/node/nodev1")},
		// What builds run in is given to the builder.
		{dir: "pkg/build", deny: own("pkg/cri", "pkg/node", "pkg/sandbox", "pkg/runtime"), allow: leaf},
		{dir: "pkg/node", deny: own("pkg/cli")},
		// The mechanisms of people's containers know no containers.
		{dir: "pkg/node/names", only: []string{"github.com/containerd/errdefs"}},
		{dir: "pkg/node/restart", only: []string{"github.com/containerd/errdefs"}},
		{dir: "pkg/node/health", only: []string{"github.com/containerd/errdefs"}},
		{dir: "pkg/node/journal", only: []string{}},
		{dir: "pkg/node/logs", only: []string{"golang.org/x/sys"}},
		{dir: "pkg/node/volumes", only: append([]string{"github.com/containerd/errdefs"}, leaf...)},
		{dir: "pkg/cri", deny: own("pkg/node", "pkg/cli", "pkg/build")},
		{dir: "pkg/guard", only: []string{"github.com/containerd/errdefs", "k8s.io/klog"}},
		{dir: "pkg/outbox", only: []string{}},
		{dir: "pkg/revision", only: []string{}},
		{dir: "pkg/runtime/linux", only: append([]string{"golang.org/x/sys"}, leaf...)},
		// The leak checker shares no code with what it checks.
		{dir: "test/e2e/invariant", deny: own("pkg", "cmd")},
		// Kubernetes is run, not linked, and so is what it runs on.
		{dir: "test/e2e/cluster", deny: append(own("pkg", "cmd"), "k8s.io/kubernetes"), tests: true},
	}
}

func (d direction) refuses(path string) bool {
	if d.only != nil {
		first, _, _ := strings.Cut(path, "/")
		standard := !strings.Contains(first, ".")
		return !standard && !underAny(path, d.only)
	}
	return underAny(path, d.deny) && !underAny(path, d.allow)
}

func TestImportsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		for _, rule := range directions() {
			if !under(s.dir, rule.dir) || s.test && !rule.tests {
				continue
			}
			for _, imported := range s.tree.Imports {
				if path := strings.Trim(imported.Path.Value, `"`); rule.refuses(path) {
					t.Errorf("%s: %s must not import %s", s.line(imported.Pos()), rule.dir, path)
				}
			}
		}
	}
}

func TestDirectionRules(t *testing.T) {
	for _, test := range []struct {
		dir, path string
		refused   bool
	}{
		{"pkg/image", module + "/pkg/sandbox", true},
		{"pkg/image/layer", module + "/pkg/runtime/monitor", true},
		{"pkg/image/layer", module + "/pkg/runtime/linux", false},
		{"pkg/image", module + "/pkg/image/registry", false},
		{"pkg/runtime", "google.golang.org/grpc/status", true},
		{"pkg/runtime", "go.opentelemetry.io/otel/trace", true},
		{"pkg/sandbox/network", module + "/pkg/progress", false},
		{"pkg/progress", "go.opentelemetry.io/otel/sdk/trace", true},
		{"pkg/progress", "go.opentelemetry.io/otel/trace", false},
		{"pkg/runtime/monitor", module + "/pkg/progress", true},
		{"pkg/guard", module + "/pkg/progress", true},
		{"pkg/guard", "k8s.io/klog/v2", false},
		{"pkg/outbox", "k8s.io/klog/v2", true},
		{"pkg/revision", "k8s.io/klog/v2", true},
		{"pkg/runtime/monitor", "github.com/spf13/cobra", true},
		{"pkg/runtime/monitor", "golang.org/x/sys/unix", false},
		{"cmd/cri-node/early", "github.com/spf13/cobra", true},
		{"cmd/cri-node/early", module + "/pkg/runtime/monitor", false},
		{"pkg/runtime/linux", "encoding/json", false},
		{"pkg/runtime/linux", module + "/pkg/runtime", true},
		{"pkg/cri", module + "/pkg/runtime", false},
		{"pkg/cri", module + "/cmd/cri-node/config", true},
	} {
		refused := slices.ContainsFunc(directions(), func(d direction) bool {
			return under(test.dir, d.dir) && d.refuses(test.path)
		})
		if refused != test.refused {
			t.Errorf("%s importing %s: refused is %v, want %v", test.dir, test.path, refused, test.refused)
		}
	}
}

// TestPackagesAreDocumented wants exactly one file of each package to say what
// the package is.
func TestPackagesAreDocumented(t *testing.T) {
	documented := make(map[string][]string)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		files := documented[s.dir]
		if s.tree.Doc.Text() != "" { // directives such as //go:build are no text
			files = append(files, s.path)
		}
		documented[s.dir] = files
	}
	for dir, files := range documented {
		if len(files) != 1 {
			t.Errorf("%s: %d files have a package comment, want one: %v", dir, len(files), files)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if lines := bytes.Count(s.text, []byte("\n")); lines > maxFile && !s.test {
			t.Errorf("%s has %d lines, want at most %d", s.path, lines, maxFile)
		}
		if s.test {
			continue
		}
		for _, declaration := range s.tree.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if lines := s.set.Position(function.End()).Line - s.set.Position(function.Pos()).Line; lines > maxFunction {
				t.Errorf("%s: %s has %d lines, want at most %d", s.line(function.Pos()), function.Name.Name, lines, maxFunction)
			}
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, declaration := range s.tree.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			// Package early is what runs before all others, by its init.
			if ok && function.Recv == nil && function.Name.Name == "init" && s.dir != "cmd/cri-node/early" {
				t.Errorf("%s: init runs in every process of ours, the monitor included; call a function instead", s.line(function.Pos()))
			}
		}
	}
}

// TestPackageNames refuses names that say nothing.
func TestPackageNames(t *testing.T) {
	banned := []string{"util", "utils", "common", "helper", "helpers", "lib", "misc", "types", "base", "shared"}
	for _, s := range sources(t) {
		name := strings.TrimSuffix(s.tree.Name.Name, "_test")
		if slices.Contains(banned, name) || slices.Contains(banned, filepath.Base(s.dir)) {
			t.Errorf("%s: package %s: name it after what it is", s.path, name)
		}
	}
}

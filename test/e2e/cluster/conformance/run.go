package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cri-node/cri-node/test/specs"
)

// Suite is one of the suites and how to run it.
type Suite struct {
	// Name is that of its files.
	Name string
	// Ginkgo, with GinkgoArgs, runs Program, the compiled suite, with Args.
	Ginkgo, Program  string
	GinkgoArgs, Args []string
	// Path is a directory of programs that it finds before the machine's, "" for none.
	Path string
	// Out is the directory for its files, Work where it runs.
	Out, Work string
	// Focus is a regular expression; NotRun are the specs to leave out.
	Focus  string
	NotRun []Reason
	// Parallel is how many specs run at a time, of those that may.
	Parallel int
}

// passes are how the specs are parted: those that need the node to themselves
// come after the others.
var passes = []struct {
	labels string
	alone  bool
}{
	{"(Conformance || NodeConformance) && !Serial && !Disruptive", false},
	{"(Conformance || NodeConformance) && (Serial || Disruptive)", true},
}

// Run runs the suite and returns what came of its specs.
func (s Suite) Run(ctx context.Context) ([]specs.Spec, error) {
	log, err := os.Create(filepath.Join(s.Out, s.Name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var all []specs.Spec
	for i, pass := range passes {
		parallel := s.Parallel
		if pass.alone {
			parallel = 1
		}
		report := fmt.Sprintf("%s-%d.json", s.Name, i+1)
		if err := os.RemoveAll(filepath.Join(s.Out, report)); err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, s.Ginkgo, s.arguments(pass.labels, report, parallel)...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = s.Work, log, log
		if s.Path != "" {
			cmd.Env = append(os.Environ(), "PATH="+s.Path+":"+os.Getenv("PATH"))
		}
		// Asked to end, it still removes what it made.
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
		cmd.WaitDelay = time.Minute
		runErr := cmd.Run()
		one, err := readReport(filepath.Join(s.Out, report))
		all = append(all, one...)
		if err != nil {
			return all, errors.Join(fmt.Errorf("run %s: %w, see %s", s.Name, err, log.Name()), runErr)
		}
		if runErr != nil && specs.Summarize(one).Total.Failed == 0 {
			return all, fmt.Errorf("run %s: %w, see %s", s.Name, runErr, log.Name())
		}
	}
	return all, nil
}

func (s Suite) arguments(labels, report string, parallel int) []string {
	args := []string{
		"-procs=" + strconv.Itoa(parallel), "--no-color", "--timeout=6h", "--silence-skips",
		"--label-filter=" + labels, "--output-dir=" + s.Out, "--json-report=" + report,
	}
	if s.Focus != "" {
		args = append(args, "--focus="+s.Focus)
	}
	for _, r := range s.NotRun {
		if r.applies() {
			args = append(args, "--skip="+r.Specs)
		}
	}
	return slices.Concat(args, s.GinkgoArgs, []string{s.Program, "--"}, s.Args)
}

func readReport(path string) ([]specs.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return specs.Parse(f)
}

// FullName is the whole name of a spec in one line.
func FullName(s specs.Spec) string {
	return strings.Join(strings.Fields(strings.Join(append(append([]string{}, s.ContainerHierarchyTexts...), s.LeafNodeText), " ")), " ")
}

package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cri-node/cri-node/test/specs"
)

// reportName is ginkgo's report. It goes to the working directory, and with
// several specs at a time beside the link critest makes to itself.
const reportName = "report.json"

// runSuite runs the binary and reads its report. Specs are nil where there is none.
func (o options) runSuite(ctx context.Context) ([]specs.Spec, error) {
	environment := os.Environ()
	if o.parallel > 1 {
		ginkgo, err := o.ginkgo(ctx)
		if err != nil {
			return nil, err
		}
		temp := filepath.Join(o.out, "tmp")
		if err := os.MkdirAll(temp, 0o755); err != nil {
			return nil, err
		}
		defer os.RemoveAll(temp)
		environment = append(environment, "TMPDIR="+temp, "PATH="+filepath.Dir(ginkgo)+":"+os.Getenv("PATH"))
	}
	log, err := os.Create(filepath.Join(o.out, "output.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Printf("Running critest; its output is in %s\n", log.Name())
	cmd := exec.CommandContext(ctx, o.critest, o.arguments()...)
	cmd.Dir, cmd.Env = o.out, environment
	cmd.Stdout, cmd.Stderr = log, log
	// Asked to end, it still removes the pods it made.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	runErr := cmd.Run()
	if runErr != nil {
		runErr = fmt.Errorf("run critest: %w\n%s", runErr, tail(log.Name(), 20))
	}
	all, err := o.readReport()
	return all, errors.Join(runErr, err)
}

func (o options) arguments() []string {
	args := []string{
		"-runtime-endpoint", o.endpoint, "-image-endpoint", o.endpoint,
		"-ginkgo.no-color", "-ginkgo.timeout", "6h", "-ginkgo.json-report", reportName,
	}
	if o.nriSocket != "" {
		args = append(args, "-nri-socket", o.nriSocket)
	}
	if o.parallel > 1 {
		args = append(args, "-parallel", strconv.Itoa(o.parallel))
	}
	if o.websocket {
		args = append(args, "-websocket-exec", "-websocket-attach", "-websocket-portforward")
	}
	return append(args, o.args...)
}

// ginkgo is the program critest runs several specs at a time with; it has to be
// of the version of critest's own library, which a binary built of vendored
// modules does not tell.
func (o options) ginkgo(ctx context.Context) (string, error) {
	info, err := buildinfo.ReadFile(o.critest)
	if err != nil {
		return "", fmt.Errorf("read what critest is built of: %w", err)
	}
	const module = "github.com/onsi/ginkgo/v2"
	version := o.ginkgoVersion
	for _, d := range info.Deps {
		if d.Path == module {
			version = d.Version
		}
	}
	if version == "" || o.tools == "" {
		found, err := exec.LookPath("ginkgo")
		if err != nil {
			return "", fmt.Errorf("several specs at a time take ginkgo: %w", err)
		}
		return found, nil
	}
	dir := filepath.Join(o.tools, "ginkgo-"+version)
	program := filepath.Join(dir, "ginkgo")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", module+"/ginkgo@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install ginkgo %s: %w\n%s", version, err, out)
	}
	return program, nil
}

// readReport finds and reads ginkgo's report.
func (o options) readReport() ([]specs.Spec, error) {
	found, err := filepath.Glob(filepath.Join(o.out, reportName))
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob(filepath.Join(o.out, "tmp", "*", reportName))
	}
	if err != nil || len(found) == 0 {
		return nil, errors.Join(errors.New("critest wrote no report"), err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return specs.Parse(f)
}

// version is the first line a program says about its version.
func version(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return filepath.Base(program) + " of unknown version"
	}
	for line := range strings.Lines(string(out)) {
		return strings.TrimSpace(line)
	}
	return ""
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

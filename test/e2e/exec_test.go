package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/pace"
)

// execSync is the bare call, which shows exit codes and gRPC codes as they are.
func (e *env) execSync(id string, timeout int64, command ...string) (*runtimeapi.ExecSyncResponse, error) {
	e.Helper()
	return e.node.Raw.ExecSync(e.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: timeout})
}

func TestExecSync(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, asUser(1000), func(c *runtimeapi.ContainerConfig) {
			c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "MINE", Value: []byte("value")})
			c.WorkingDir = "/tmp"
		})
		for _, tc := range []struct {
			name           string
			command        []string
			code           int32
			stdout, stderr string
		}{
			{"true", []string{"true"}, 0, "", ""},
			{"streams", []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 3, "out\n", "err\n"},
			{"environment", []string{"sh", "-c", "echo $MINE $(pwd) $(id -u)"}, 0, "value /tmp 1000\n", ""},
			{"arguments", []string{"echo", "a b", "", "c\nd"}, 0, "a b  c\nd\n", ""},
			{"signal", []string{"sh", "-c", "kill -9 $$"}, 137, "", ""},
			{"no newline", []string{"printf", "x"}, 0, "x", ""},
			{"bytes", []string{"printf", `\377\000`}, 0, "\xff\x00", ""},
			{"stdin is empty", []string{"cat"}, 0, "", ""},
		} {
			r, err := e.execSync(c.id, 10, tc.command...)
			if err != nil {
				e.Errorf("%s: %v", tc.name, err)
				continue
			}
			equal(e, tc.name+": exit code", r.ExitCode, tc.code)
			equal(e, tc.name+": stdout", string(r.Stdout), tc.stdout)
			equal(e, tc.name+": stderr", string(r.Stderr), tc.stderr)
		}
		r, err := e.execSync(c.id, 0, "/no/such/program")
		if err == nil && r.ExitCode != 126 && r.ExitCode != 127 {
			e.Errorf("missing program gives exit code %d", r.ExitCode)
		}
	})
}

// TestExecSyncTimeout ends the whole tree before it answers.
func TestExecSyncTimeout(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		began := time.Now()
		_, err := e.execSync(c.id, 1, "sh", "-c", "sleep 4321 & (sleep 4322 &) ; setsid sleep 4323 & sleep 4324")
		equal(e, "code", grpcstatus.Code(err), codes.DeadlineExceeded)
		if took := time.Since(began); took < 900*time.Millisecond || took > pace.Limit(5*time.Second) {
			e.Errorf("a timeout of 1 s took %v", took)
		}
		if out := e.exec(c.id, "ps"); strings.Contains(out, "432") {
			e.Errorf("after the timeout there are: %s", out)
		}
		equal(e, "container", e.status(c.id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	})
}

// TestExecSyncOutput keeps 16 MiB of each stream and drops the rest silently.
func TestExecSyncOutput(t *testing.T) {
	e := onShared(t)
	p := e.runPod("")
	c := e.start(p, "c", []string{"sleep", "1000"})
	const limit = 16 << 20
	for _, size := range []int{0, 1 << 20, limit - 1, limit + 5} {
		stdout, _, err := e.node.Runtime.ExecSync(t.Context(), c.id, []string{"probe", "flood", "-bytes", fmt.Sprint(size)}, pace.Limit(60*time.Second))
		// 16 MiB and the message around them are more than the client takes.
		if size >= limit-1 && grpcstatus.Code(err) == codes.ResourceExhausted {
			r, err := e.node.Raw.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"probe", "flood", "-bytes", fmt.Sprint(size)}}, maxReceive)
			e.must(err)
			equal(e, "bytes", len(r.Stdout), min(size, limit))
			continue
		}
		e.must(err)
		if got := len(stdout); got > limit || size < limit-1<<16 && got != size || size >= limit && got < limit-1<<16 {
			t.Errorf("%d bytes of %d", got, size)
		}
	}
}

// TestExecSyncBackgroundChild answers though a child keeps the pipe.
func TestExecSyncBackgroundChild(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		began := time.Now()
		r, err := e.execSync(c.id, 20, "sh", "-c", "sleep 30 & echo done")
		e.must(err)
		equal(e, "stdout", string(r.Stdout), "done\n")
		if took := time.Since(began); took > 10*time.Second {
			e.Errorf("took %v", took)
		}
	})
}

// TestExecSyncMany runs many at a time, some in a container that is going.
func TestExecSyncMany(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"})
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				for j := range pace.Count(4, 1) {
					want := fmt.Sprintf("%d-%d\n", i, j)
					r, err := e.execSync(c.id, int64(pace.Limit(30*time.Second).Seconds()), "echo", strings.TrimSpace(want))
					if err != nil || string(r.Stdout) != want {
						e.Errorf("exec %s: %v %v", want, r, err)
					}
				}
			})
		}
		group.Wait()
		done := make(chan error, 1)
		go func() {
			_, err := e.execSync(c.id, 60, "sleep", "50")
			done <- err
		}()
		e.eventually(10*time.Second, func() error {
			if out := e.exec(c.id, "ps"); !strings.Contains(out, "sleep 50") {
				return fmt.Errorf("exec has not begun: %s", out)
			}
			return nil
		})
		e.must(e.node.Runtime.RemoveContainer(e.Context(), c.id))
		select {
		case <-done:
		case <-time.After(pace.Limit(10 * time.Second)):
			e.Error("exec goes on in a removed container")
		}
		if _, err := e.execSync(c.id, 5, "true"); err == nil {
			e.Error("exec in a removed container")
		}
	})
}

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cri-node/cri-node/test/e2e/crilog"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestLogComplete: at the moment a container is EXITED its log holds every line
// of both streams, in order.
func TestLogComplete(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		for i, lines := range []int{1, 100, 20000} {
			c := e.start(p, fmt.Sprint("c", i), []string{"probe", "log", "-lines", fmt.Sprint(lines), "-stderr"})
			e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 60*time.Second)
			entries, err := crilog.Read(c.log)
			e.must(err)
			e.must(crilog.Ordered(entries))
			for stream, prefix := range map[string]string{"stdout": "out ", "stderr": "err "} {
				last, err := crilog.Contiguous(entries, stream, prefix)
				e.must(err)
				equal(e, "last line on "+stream, last, lines)
			}
		}
	})
}

// TestLogForm: empty lines, lines without end, long lines.
func TestLogForm(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sh", "-c", `echo a; echo; echo " b "; printf 'no end'; printf 'e1\ne2' >&2`})
		e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
		entries, err := crilog.Read(c.log)
		e.must(err)
		out := crilog.Text(entries, "stdout")
		equal(e, "stdout", strings.TrimSuffix(out, "\n"), "a\n\n b \nno end")
		equal(e, "stderr", strings.TrimSuffix(crilog.Text(entries, "stderr"), "\n"), "e1\ne2")

		const size = 100_000
		c = e.start(p, "long", []string{"sh", "-c", fmt.Sprintf("probe flood -bytes %d; echo", size)})
		e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
		entries, err = crilog.Read(c.log) // fails on a line that is not split
		e.must(err)
		equal(e, "a long line joined", len(crilog.Text(entries, "stdout")), size+1)
	})
}

// TestLogReopen renames a log under a fast writer, as kubelet rotates.
func TestLogReopen(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"probe", "log", "-lines", "0", "-rate", "2000", "-until", "/tmp/stop"})
		e.logHas(c, "out 00000010")
		var whole []crilog.Entry
		for i := range 5 {
			old := fmt.Sprintf("%s.%d", c.log, i)
			e.must(os.Rename(c.log, old))
			e.must(e.node.Runtime.ReopenContainerLog(e.Context(), c.id))
			if _, err := os.Stat(c.log); err != nil {
				e.Fatalf("new log after reopen: %v", err)
			}
			entries, err := crilog.Read(old)
			e.must(err)
			before := len(entries)
			e.eventually(10*time.Second, func() error {
				info, err := os.Stat(c.log)
				if err == nil && info.Size() == 0 {
					err = errors.New("new log is empty")
				}
				return err
			})
			entries, err = crilog.Read(old)
			e.must(err)
			equal(e, "lines of the renamed log", len(entries), before)
			whole = append(whole, entries...)
		}
		e.tellStop(c)
		e.await(c.id, runtimeapi.ContainerState_CONTAINER_EXITED, 20*time.Second)
		entries, err := crilog.Read(c.log)
		e.must(err)
		if _, err := crilog.Contiguous(append(whole, entries...), "stdout", "out "); err != nil {
			e.Error(err)
		}
		// Not running: an error, and no file.
		e.must(os.Remove(c.log))
		if err := e.node.Runtime.ReopenContainerLog(e.Context(), c.id); err == nil {
			e.Error("reopened the log of an exited container")
		}
		if _, err := os.Stat(c.log); err == nil {
			e.Error("a refused reopen made a file")
		}
	})
}

package workshop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
)

// hostPrompt is what the shell of the test asks with: nothing else prints it.
const hostPrompt = "person at work$ "

// waiting is what the end of the screen looks like when something is to be typed.
var waiting = map[string]*regexp.Regexp{
	"$":   regexp.MustCompile(`(?:^|\n)person at work\$ $`),
	"#":   regexp.MustCompile(`(?:^|\n)root@[^\s:]+:/[^\n]*# $`),
	">>>": regexp.MustCompile(`(?:^|\n)>>> $`),
}

// codes are what a terminal does not show.
var codes = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\a]*\a|\x1b[=>]|\r`)

// terminal is a shell on a pseudo terminal.
type terminal struct {
	shell *exec.Cmd
	file  *os.File
	done  chan struct{}

	mu      sync.Mutex
	screen  strings.Builder
	changed chan struct{}
}

// open starts a shell in dir.
func open(ctx context.Context, dir string, env []string) (*terminal, error) {
	t := &terminal{done: make(chan struct{}), changed: make(chan struct{}, 1)}
	t.shell = exec.CommandContext(ctx, "bash", "--norc", "--noprofile", "--noediting")
	t.shell.Dir, t.shell.Env = dir, append(append(os.Environ(), env...), "PS1="+hostPrompt, "TERM=xterm")
	var err error
	if t.file, err = pty.StartWithSize(t.shell, &pty.Winsize{Rows: 50, Cols: 200}); err != nil {
		return nil, err
	}
	go func() {
		defer close(t.done)
		buffer := make([]byte, 4096)
		for {
			n, err := t.file.Read(buffer)
			t.mu.Lock()
			t.screen.Write(buffer[:n])
			t.mu.Unlock()
			select {
			case t.changed <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return t, nil
}

// close ends the shell with all that runs in its session, and waits for its end.
func (t *terminal) close() error {
	_ = exec.Command("pkill", "-KILL", "-s", strconv.Itoa(t.shell.Process.Pid)).Run() // there may be nothing
	_ = t.shell.Wait()
	<-t.done
	return t.file.Close()
}

// shown is what came since the last call of forget.
func (t *terminal) shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return codes.ReplaceAllString(t.screen.String(), "")
}

func (t *terminal) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.screen.Reset()
}

// expect waits until any of the prompts is there.
func (t *terminal) expect(limit time.Duration, prompts ...string) (which string, err error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		text := t.shown()
		for _, p := range prompts {
			if waiting[p].MatchString(text) {
				return p, nil
			}
		}
		select {
		case <-t.changed:
		case <-timer.C:
			return "", fmt.Errorf("no prompt within %v; the terminal shows\n%s", limit, text)
		case <-t.done:
			return "", fmt.Errorf("the shell has ended; the terminal shows\n%s", text)
		}
	}
}

// enter types a line.
func (t *terminal) enter(line string) error {
	t.forget()
	_, err := t.file.WriteString(line + "\n")
	return err
}

package cage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/test/e2e/usage"
)

// The variables that tell this program, run again, what it is and where.
const (
	roleVariable = "CRI_NODE_CAGE"
	dirVariable  = "CRI_NODE_CAGE_DIR"
)

const (
	roleKeeper = "keeper"
	roleInit   = "init"
	roleInside = "inside"
)

// lifeline is the descriptor of the pipe from which the inside reads that the
// program outside has ended.
const lifeline = 3

// Options say what cage to use.
type Options struct {
	// Dir is the directory of the cage, made where missing; it must be short, as
	// there are sockets in it.
	Dir string
	// Keep leaves the cage to the next run with the same directory.
	Keep bool
}

// record is cage.json.
type record struct {
	Keeper, Init Mark
}

// Mark names a process.
type Mark struct {
	PID   int
	Start uint64
}

// MarkOf names the process that has the number now.
func MarkOf(pid int) Mark {
	p, _, _ := usage.Get(pid)
	return Mark{PID: pid, Start: p.StartTime}
}

// Alive reports whether the process runs.
func (m Mark) Alive() bool {
	p, ok, err := usage.Get(m.PID)
	return err == nil && ok && p.StartTime == m.Start
}

// Serve must be the first thing in main or TestMain: as the keeper or init of a
// cage it does their work and does not return.
func Serve() {
	var err error
	switch os.Getenv(roleVariable) {
	case roleKeeper:
		err = keep(os.Getenv(dirVariable))
	case roleInit:
		err = initialise(os.Getenv(dirVariable))
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Getenv(roleVariable), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Inside returns the directory of the cage that this program is in, and makes the
// program end with the one outside; "" outside of a cage.
func Inside() (string, error) {
	if os.Getenv(roleVariable) != roleInside {
		return "", nil
	}
	unix.CloseOnExec(lifeline)
	go func() { // ends with the program
		_, _ = io.Copy(io.Discard, os.NewFile(lifeline, "lifeline"))
		fmt.Fprintln(os.Stderr, "the program outside of the cage has ended")
		os.Exit(2)
	}()
	dir := os.Getenv(dirVariable)
	return dir, errors.Join(os.Unsetenv(roleVariable), os.Unsetenv(dirVariable), moveIn(dir, os.Getpid()))
}

// Run runs this program, with the same arguments, inside and returns its exit
// code.
func Run(o Options) (int, error) {
	if err := errors.Join(os.MkdirAll(filepath.Join(o.Dir, "tmp"), 0o755), os.Chmod(o.Dir, 0o755)); err != nil {
		return 1, err
	}
	r, err := load(o.Dir)
	if err != nil || !r.Init.Alive() {
		var word io.WriteCloser
		if word, err = startKeeper(o); err != nil {
			return 1, fmt.Errorf("start keeper: %w", err)
		}
		if word != nil {
			defer word.Close()
		}
		if r, err = load(o.Dir); err != nil {
			return 1, err
		}
		code, err := enter(o.Dir, r.Init.PID)
		if word != nil {
			err = errors.Join(err, dismiss(word, r.Keeper, code == 0 && err == nil))
		}
		return code, err
	}
	return enter(o.Dir, r.Init.PID)
}

// Down ends a kept cage and removes its directory.
func Down(dir string) error {
	r, err := load(dir)
	if err != nil {
		return err
	}
	if !r.Keeper.Alive() {
		return errors.Join(dropCgroups(Cgroup(dir)), os.RemoveAll(dir))
	}
	fd, err := unix.PidfdOpen(r.Keeper.PID, 0)
	if err != nil {
		return fmt.Errorf("open keeper: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("end keeper: %w", err)
	}
	return await(fd)
}

func load(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, "cage.json"))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// startKeeper starts a keeper and waits until the cage is there. The cage lives
// for as long as the pipe that it returns, which is nil where it is kept.
func startKeeper(o Options) (word io.WriteCloser, err error) {
	if err := os.Remove(filepath.Join(o.Dir, "cage.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	log, err := os.Create(filepath.Join(o.Dir, "keeper.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	keeper := again(roleKeeper, o.Dir)
	keeper.Stderr = log
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !o.Keep {
		if word, err = keeper.StdinPipe(); err != nil {
			return nil, err
		}
	}
	ready, err := keeper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := keeper.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(ready).ReadString('\n'); line != "ready\n" {
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("keeper ended: %w\n%s", err, said)
	}
	return word, nil
}

// dismiss tells the keeper whether all went well and waits for its end.
func dismiss(word io.WriteCloser, keeper Mark, well bool) error {
	fd, err := unix.PidfdOpen(keeper.PID, 0)
	if err != nil {
		return fmt.Errorf("open keeper: %w", err)
	}
	defer unix.Close(fd)
	if well {
		if _, err := io.WriteString(word, "well\n"); err != nil {
			return fmt.Errorf("tell keeper: %w", err)
		}
	}
	if err := word.Close(); err != nil {
		return err
	}
	return await(fd)
}

// await waits for the end of a process.
func await(pidfd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// again is this program in another role.
func again(role, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, roleVariable) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, roleVariable+"="+role, dirVariable+"="+dir)
	return cmd
}

// enter runs this program in the namespaces of init.
func enter(dir string, init int) (int, error) {
	here, err := os.Getwd()
	if err != nil {
		return 1, err
	}
	end, own, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer own.Close()
	cmd := again(roleInside, dir, os.Args[1:]...)
	cmd.Env = append(cmd.Env, "TMPDIR="+filepath.Join(dir, "tmp"))
	cmd.Dir, cmd.ExtraFiles = here, []*os.File{end}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	started := make(chan error)
	go func() {
		// Not unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := join(init); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := errors.Join(<-started, end.Close()); err != nil {
		return 1, fmt.Errorf("enter cage: %w", err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// join moves the thread, or for processes its children, into the namespaces.
func join(pid int) error {
	kinds := []string{"net", "uts", "ipc", "pid", "mnt"} // paths change with the last one
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	for _, kind := range kinds {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s namespace: %w", kind, err)
		}
		err = unix.Setns(fd, 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("join %s namespace: %w", kind, err)
		}
	}
	return nil
}

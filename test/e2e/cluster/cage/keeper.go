package cage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// keep is the keeper: it starts init, waits for the end of the program of tests
// or, without one, for SIGTERM, and takes everything away.
func keep(dir string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	// The signal that ends init with its parent comes with the end of this thread.
	runtime.LockOSThread()
	cmd := again(roleInit, dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL, Setsid: true,
	}
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	line, err := bufio.NewReader(ready).ReadString('\n')
	if line != "ready\n" {
		return errors.Join(fmt.Errorf("init ended: %w", err), cmd.Wait())
	}
	data, err := json.Marshal(record{Keeper: MarkOf(os.Getpid()), Init: MarkOf(cmd.Process.Pid)})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cage.json"), data, 0o644)
	}
	if err == nil {
		_, err = fmt.Println("ready")
	}
	if err == nil {
		err = os.Stdout.Close()
	}
	well := false
	if err == nil {
		well = wait(signals)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed, and all inside with it
	return errors.Join(err, dropCgroups(Cgroup(dir)), tidy(dir, well))
}

// wait waits for the end of the cage and reports whether all was well.
func wait(signals <-chan os.Signal) bool {
	kept, err := os.Stdin.Stat()
	if err == nil && kept.Mode()&fs.ModeNamedPipe == 0 {
		<-signals
		return true
	}
	said := make(chan string, 1)
	go func() { // ends with the process
		all, _ := io.ReadAll(os.Stdin)
		said <- string(all)
	}()
	select {
	case <-signals:
		return true
	case word := <-said:
		return strings.TrimSpace(word) == "well"
	}
}

// tidy removes the directory, but for the logs where not all went well.
func tidy(dir string, well bool) error {
	if well {
		return os.RemoveAll(dir)
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "root" || d.Name() == "lib"):
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return filepath.SkipDir
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		case strings.HasSuffix(path, ".log"):
			return nil
		}
		return os.Remove(path)
	})
	slices.Reverse(dirs)
	for _, d := range dirs {
		_ = os.Remove(d) // those without logs
	}
	return err
}

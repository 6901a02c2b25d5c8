package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
)

// What a person at a terminal waits for, as it is called in the tables.
const (
	peoplePS     = "`cri-node ps`"
	peopleRun    = "`cri-node run IMAGE echo`"
	peopleCalls  = "RunPodSandbox, CreateContainer, StartContainer, log"
	peopleCrictl = "`crictl` runp, create, start, logs"
)

// people times how long it is until a person sees something: the list, and the
// output of a container that `run` makes, or crictl in four commands, or a program
// that makes the same calls by itself. They take turns, so that a machine that is
// slow for a while is so for all.
func (b *bench) people(ctx context.Context, s *samples) error {
	ways := []struct {
		name string
		way  func(i int) error
	}{
		{peoplePS, func(int) error {
			return b.firstOutput(ctx, s, peoplePS, b.node, "--address", b.endpoint, "ps")
		}},
		{peopleRun, func(int) error {
			return b.firstOutput(ctx, s, peopleRun, b.node, "--address", b.endpoint, "run", "--rm", "--runtime", b.handler, b.image, "echo", "hello")
		}},
		{peopleCalls, func(i int) error { return b.byCalls(ctx, s, fmt.Sprintf("calls-%d", i)) }},
		{peopleCrictl, func(i int) error { return b.byCrictl(ctx, s, fmt.Sprintf("crictl-%d", i)) }},
	}
	for i := range b.verbs {
		for _, w := range ways {
			if w.name == peopleCrictl && b.crictl == "" {
				continue
			}
			if err := w.way(i); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return nil
}

// firstOutput runs a command to its end, and keeps how long it was until it wrote
// something.
func (b *bench) firstOutput(ctx context.Context, s *samples, name, path string, args ...string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	err = s.time(name, func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		var one [1]byte
		_, err := out.Read(one[:])
		return err
	})
	_, readErr := io.Copy(io.Discard, out)
	if cmd.Process == nil {
		return err
	}
	if waitErr := cmd.Wait(); waitErr != nil {
		return fmt.Errorf("%w: %s", waitErr, problem.Bytes())
	}
	return errors.Join(err, readErr)
}

// hello is a pod with a container that says so, as a person would write it down
// for crictl, isolated as `run` isolates: process ids of its own, and the runtime's
// default seccomp profile, whose making takes a third of a start.
func (b *bench) hello(name string) (*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig) {
	pod := kubelet.Pod{Name: name, Namespace: "bench", CgroupParent: b.cgroupParent, LogDirectory: filepath.Join(b.logs, name)}.Config()
	container := kubelet.Container{Name: "c", Image: b.imageID, Command: []string{"echo", "hello"}}.Config(pod)
	container.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	return pod, container
}

// byCalls makes the calls, and waits for the first line in the log.
func (b *bench) byCalls(ctx context.Context, s *samples, name string) (err error) {
	pod, container := b.hello(name)
	var id string
	defer func() { err = errors.Join(err, b.away(ctx, id)) }()
	return s.time(peopleCalls, func() (err error) {
		if id, err = b.runtime.RunPodSandbox(ctx, pod, b.handler); err != nil {
			return err
		}
		c, err := b.runtime.CreateContainer(ctx, id, container, pod)
		if err != nil {
			return err
		}
		if err := b.runtime.StartContainer(ctx, c); err != nil {
			return err
		}
		return awaitLine(ctx, filepath.Join(pod.GetLogDirectory(), container.GetLogPath()))
	})
}

// awaitLine waits until a log has a line.
func awaitLine(ctx context.Context, path string) error {
	for ctx.Err() == nil {
		if f, err := os.Open(path); err == nil {
			_, err := bufio.NewReader(f).ReadString('\n')
			if closeErr := f.Close(); err == nil {
				return closeErr
			}
		}
		time.Sleep(time.Millisecond / 2)
	}
	return ctx.Err()
}

// byCrictl has crictl make the calls, and read the log until there is something.
func (b *bench) byCrictl(ctx context.Context, s *samples, name string) (err error) {
	pod, container := b.hello(name)
	podFile, containerFile := filepath.Join(b.logs, "pod.json"), filepath.Join(b.logs, "container.json")
	if err := errors.Join(writeJSON(podFile, pod), writeJSON(containerFile, container)); err != nil {
		return err
	}
	crictl := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, b.crictl, append([]string{"--timeout", "1m", "--runtime-endpoint", b.endpoint, "--image-endpoint", b.endpoint}, args...)...)
		var problem bytes.Buffer
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("crictl %s: %w: %s", args[0], err, problem.Bytes())
		}
		return string(bytes.TrimSpace(out)), nil
	}
	var id string
	defer func() { err = errors.Join(err, b.away(ctx, id)) }()
	return s.time(peopleCrictl, func() (err error) {
		if id, err = crictl("runp", "--runtime", b.handler, podFile); err != nil {
			return err
		}
		c, err := crictl("create", "--no-pull", id, containerFile, podFile)
		if err != nil {
			return err
		}
		if _, err := crictl("start", c); err != nil {
			return err
		}
		for ctx.Err() == nil {
			if text, err := crictl("logs", c); text != "" || err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// away removes a pod with what is in it.
func (b *bench) away(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	return errors.Join(b.runtime.StopPodSandbox(ctx, id), b.runtime.RemovePodSandbox(ctx, id))
}

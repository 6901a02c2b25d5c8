package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// people is a person at a node.
type people struct {
	*env
	nodev1.ContainersClient
	system nodev1.SystemClient
}

// onPeople is onShared for tests of the API for people.
func onPeople(t *testing.T) *people {
	t.Helper()
	return peopleOf(onShared(t))
}

func peopleOf(e *env) *people {
	return &people{e, nodev1.NewContainersClient(e.node.Conn()), nodev1.NewSystemClient(e.node.Conn())}
}

// reconnect uses the connection that a restarted daemon has.
func (p *people) reconnect() {
	p.ContainersClient, p.system = nodev1.NewContainersClient(p.node.Conn()), nodev1.NewSystemClient(p.node.Conn())
}

// request is what `run IMAGE command...` asks for.
func request(command []string, edits ...func(*nodev1.CreateRequest)) *nodev1.CreateRequest {
	r := &nodev1.CreateRequest{Container: &runtimeapi.ContainerConfig{
		Image: &runtimeapi.ImageSpec{Image: shared.image}, Args: command,
	}}
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func named(name string) func(*nodev1.CreateRequest) {
	return func(r *nodev1.CreateRequest) { r.Name = name }
}

func restarting(policy string, maximum uint32) func(*nodev1.CreateRequest) {
	return func(r *nodev1.CreateRequest) {
		r.Restart = &nodev1.RestartPolicy{Name: policy, Maximum: maximum}
	}
}

func autoRemove(r *nodev1.CreateRequest) { r.AutoRemove = true }

// make creates a container, which is removed when the test ends.
func (p *people) make(r *nodev1.CreateRequest) string {
	p.Helper()
	created, err := p.Create(p.Context(), r)
	if err != nil {
		p.Fatalf("create: %v", err)
	}
	p.Cleanup(func() { p.rm(created.Id) })
	return created.Id
}

// rm removes a container that may be gone.
func (p *people) rm(id string) {
	p.Helper()
	p.reconnect()
	ctx := context.WithoutCancel(p.Context())
	_, err := p.Remove(ctx, &nodev1.RemoveRequest{Container: id, Force: true, Volumes: true})
	if err != nil && !strings.Contains(err.Error(), "no container") {
		p.Errorf("remove %s: %v", id, err)
	}
}

// run creates and starts a container.
func (p *people) run(command []string, edits ...func(*nodev1.CreateRequest)) string {
	p.Helper()
	id := p.make(request(command, edits...))
	p.begin(id)
	return id
}

func (p *people) begin(id string) {
	p.Helper()
	if _, err := p.Start(p.Context(), &nodev1.StartRequest{Container: id}); err != nil {
		p.Fatalf("start: %v", err)
	}
}

// get is a container as the list shows it; nil where it does not.
func (p *people) get(id string) *nodev1.Container {
	p.Helper()
	list, err := p.List(p.Context(), &nodev1.ListRequest{})
	p.must(err)
	for _, c := range list.Containers {
		if c.Id == id || c.Name == id {
			return c
		}
	}
	return nil
}

// becomes waits until a container is in a state.
func (p *people) becomes(id, state string) *nodev1.Container {
	p.Helper()
	var c *nodev1.Container
	p.eventually(30*time.Second, func() error {
		if c = p.get(id); c == nil {
			return errors.New("it is not there")
		}
		if c.State != state {
			return fmt.Errorf("it is %s (%s %s), not %s", c.State, c.Reason, c.Message, state)
		}
		return nil
	})
	return c
}

// vanishes waits until a container is gone.
func (p *people) vanishes(id string) {
	p.Helper()
	p.eventually(30*time.Second, func() error {
		if c := p.get(id); c != nil {
			return fmt.Errorf("it is still there, and %s", c.State)
		}
		return nil
	})
}

// output runs a command in a container.
func (p *people) output(id string, command ...string) (stdout string, code int32) {
	p.Helper()
	out, exit := p.execute(&nodev1.ExecOpen{Container: id, Command: command})
	return out, exit.GetCode()
}

func (p *people) execute(open *nodev1.ExecOpen) (output string, exit *nodev1.Exit) {
	p.Helper()
	stream, err := p.Exec(p.Context())
	p.must(err)
	p.must(stream.Send(&nodev1.ExecRequest{Open: open}))
	output, exit, err = readStream(stream)
	p.must(err)
	return output, exit
}

// readStream reads to the end of an Attach or Exec.
func readStream(stream interface {
	Recv() (*nodev1.StreamResponse, error)
},
) (output string, exit *nodev1.Exit, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return output, exit, nil
		}
		if err != nil {
			return output, exit, err
		}
		output += string(m.Stdout) + string(m.Stderr)
		if m.Exit != nil {
			exit = m.Exit
		}
	}
}

// logsOf reads a log to its end.
func (p *people) logsOf(r *nodev1.LogsRequest) []string {
	p.Helper()
	stream, err := p.Logs(p.Context(), r)
	p.must(err)
	lines, err := readLogs(stream)
	p.must(err)
	return lines
}

func readLogs(stream grpc.ServerStreamingClient[nodev1.LogsResponse]) (lines []string, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		for _, l := range m.Lines {
			lines = append(lines, string(l.Text))
		}
	}
}

// inspected is what Inspect says, by docker's names.
func (p *people) inspected(id string) map[string]any {
	p.Helper()
	r, err := p.Inspect(p.Context(), &nodev1.InspectRequest{Container: id})
	p.must(err)
	var document map[string]any
	p.must(json.Unmarshal(r.Json, &document))
	return document
}

// wait waits for a container.
func (p *people) wait(id, condition string) int32 {
	p.Helper()
	r, err := p.Wait(p.Context(), &nodev1.WaitRequest{Container: id, Condition: condition})
	if err != nil {
		p.Fatalf("wait: %v", err)
	}
	return r.ExitCode
}

// refuses fails unless there is an error that says something.
func refuses(p *people, what string, err error, parts ...string) {
	p.Helper()
	if err == nil {
		p.Errorf("%s: no error", what)
		return
	}
	contains(p.env, what, err.Error(), parts...)
}

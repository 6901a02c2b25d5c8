package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// peoplesPods are the ids of people's pods.
func (p *people) peoplesPods() (ids []string) {
	p.Helper()
	r, err := p.node.Raw.ListPodSandbox(p.Context(), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.cri-node.owner": "people"}},
	})
	p.must(err)
	for _, pod := range r.GetItems() {
		ids = append(ids, pod.GetId())
	}
	return ids
}

// TestPeopleRemoveTogether: the last container takes the pod with it, also where
// each of two that are removed at once still sees the other.
func TestPeopleRemoveTogether(t *testing.T) {
	p := onPeople(t)
	before := len(p.peoplesPods())
	for range 5 {
		ids := []string{p.make(request(forever, named("main")))}
		for _, name := range []string{"second", "third"} {
			ids = append(ids, p.make(request(forever, named(name), func(r *nodev1.CreateRequest) { r.Join = "main" })))
		}
		var all sync.WaitGroup
		for _, id := range ids {
			all.Go(func() { p.rm(id) })
		}
		all.Wait()
		if now := len(p.peoplesPods()); now != before {
			t.Fatalf("%d pods have stayed", now-before)
		}
	}
}

// stuck makes the log of a container one that cannot be removed, until free.
func (p *people) stuck(id string) (free func()) {
	p.Helper()
	dir := filepath.Join(p.node.Root, "node", "logs", id+".log.d")
	p.must(os.MkdirAll(filepath.Join(dir, "x"), 0o700))
	return func() { p.must(os.RemoveAll(dir)) }
}

// TestPeopleRemoveInPart: what of a container cannot be removed is tried again,
// by this daemon and the next.
func TestPeopleRemoveInPart(t *testing.T) {
	e := ownNode(t, node.Options{Number: 74})
	p := peopleOf(e)
	record := func(id string) string { return filepath.Join(e.node.Root, "node", "containers", id+".json") }
	anonymous := func(r *nodev1.CreateRequest) { r.Volumes = []*nodev1.VolumeMount{{Path: "/anonymous"}} }
	id := p.run(forever, named("web"), anonymous)
	free := p.stuck(id)
	_, err := p.Remove(t.Context(), &nodev1.RemoveRequest{Container: id, Force: true, Volumes: true})
	refuses(p, "remove", err, "web", "directory not empty")
	if p.get(id) != nil {
		t.Error("it is still there")
	}
	again := p.run(forever, named("web"))
	if _, err := os.Stat(record(id)); err != nil {
		t.Errorf("nobody knows of the rest any more: %v", err)
	}
	free()
	p.eventually(20*time.Second, func() error { return gone(record(id)) })
	if n := len(p.peoplesPods()); n != 1 {
		t.Errorf("%d pods", n)
	}

	// The next daemon has a container of the same name.
	id = again
	free = p.stuck(id)
	_, err = p.Remove(t.Context(), &nodev1.RemoveRequest{Container: id, Force: true, Volumes: true})
	refuses(p, "remove", err, "directory not empty")
	again = p.run(forever, named("web"), anonymous, autoRemove)
	freeAgain := p.stuck(again)
	p.must(e.node.Kill())
	free()
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	p.must(gone(record(id)))
	if c := p.get(again); c.GetName() != "web" || c.GetState() != "running" {
		t.Errorf("%v", c)
	}

	// One that is removed by itself, half of it before the daemon dies.
	_, _ = p.Kill(t.Context(), &nodev1.KillRequest{Container: again}) // says so if it comes first
	p.vanishes(again)
	p.must(e.node.Kill())
	freeAgain()
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	p.must(gone(record(again)))
	if pods := p.peoplesPods(); len(pods) > 0 {
		t.Errorf("pods: %v", pods)
	}
	list, err := p.system.ListVolumes(t.Context(), &nodev1.ListVolumesRequest{})
	p.must(err)
	if len(list.GetVolumes()) > 0 {
		t.Errorf("volumes: %v", list.GetVolumes())
	}
}

func gone(path string) error {
	_, err := os.Stat(path)
	if err == nil {
		return fmt.Errorf("%s is still there", path)
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// TestPeopleBrokenRecord: a container whose record is torn goes on, and can be
// removed.
func TestPeopleBrokenRecord(t *testing.T) {
	e := ownNode(t, node.Options{Number: 75})
	p := peopleOf(e)
	id := p.run(forever, named("web"))
	p.must(e.node.Kill())
	p.must(os.WriteFile(filepath.Join(e.node.Root, "node", "containers", id+".json"), nil, 0o600))
	p.must(e.node.Restart(t.Context()))
	p.reconnect()
	if c := p.get(id); c.GetState() != "running" || c.GetName() != "broken-"+id[:12] {
		t.Errorf("%v", c)
	}
	if _, code := p.output(id, "true"); code != 0 {
		t.Error(code)
	}
	p.rm(id)
	if pods := p.peoplesPods(); len(pods) > 0 {
		t.Errorf("pods: %v", pods)
	}
}

// TestPeopleKillItself: to end a container that goes by itself is a success,
// whoever removes it first.
func TestPeopleKillItself(t *testing.T) {
	p := onPeople(t)
	for range 10 {
		id := p.run(forever, autoRemove)
		if _, err := p.Kill(t.Context(), &nodev1.KillRequest{Container: id}); err != nil {
			t.Error(err)
		}
		p.vanishes(id)
	}
}

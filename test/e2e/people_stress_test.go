package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/test/e2e/pace"
)

// TestPeopleAllAtOnce: many who use the same names get answers they can
// understand, nobody waits for ever, and nothing is left.
func TestPeopleAllAtOnce(t *testing.T) {
	p := onPeople(t)
	const workers, rounds = 6, 4
	expected := []string{"exists already", "no container", "does not run", "is running", "was removed meanwhile", "not paused", "is paused", "has that name", "not found"}
	check := func(what string, err error) {
		if err == nil {
			return
		}
		for _, part := range expected {
			if strings.Contains(err.Error(), part) {
				return
			}
		}
		t.Errorf("%s: %v", what, err)
	}
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			ctx := t.Context()
			for i := range rounds {
				name := fmt.Sprintf("shared%d", (w+i)%3)
				_, err := p.Create(ctx, request(forever, named(name), func(r *nodev1.CreateRequest) {
					r.Networks = []*nodev1.NetworkMembership{{Network: "all"}}
					if w%2 == 0 {
						r.Restart = &nodev1.RestartPolicy{Name: "always"}
					}
				}))
				check("create", err)
				_, err = p.Start(ctx, &nodev1.StartRequest{Container: name})
				check("start", err)
				_, err = p.List(ctx, &nodev1.ListRequest{})
				check("list", err)
				_, err = p.Kill(ctx, &nodev1.KillRequest{Container: name, Signal: "TERM"})
				check("kill", err)
				_, err = p.Restart(ctx, &nodev1.RestartRequest{Container: name, Timeout: new(int64)})
				check("restart", err)
				_, err = p.Stop(ctx, &nodev1.StopRequest{Container: name, Timeout: new(int64)})
				check("stop", err)
				_, err = p.Remove(ctx, &nodev1.RemoveRequest{Container: name, Force: true})
				check("rm", err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wait.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(pace.Limit(100 * time.Second)):
		t.Fatal("somebody waits for ever")
	}
	for i := range 3 {
		if c := p.get(fmt.Sprintf("shared%d", i)); c != nil {
			p.rm(c.Id)
		}
	}
}

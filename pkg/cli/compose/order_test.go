package compose

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

const threeTiers = `
services:
  web: {image: a, depends_on: [api]}
  api: {image: a, depends_on: [db]}
  db: {image: a}
`

func TestInOrder(t *testing.T) {
	for name, test := range map[string]struct {
		reverse bool
		want    []string
	}{
		"up":   {false, []string{"db", "api", "web"}},
		"down": {true, []string{"web", "api", "db"}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			err := inOrder(t.Context(), project(t, threeTiers), test.reverse, func(_ context.Context, s *types.ServiceConfig) error {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, s.Name)
				return nil
			})
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestInOrderEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	err := inOrder(t.Context(), project(t, threeTiers), false, func(_ context.Context, s *types.ServiceConfig) error {
		switch s.Name {
		case "api":
			return broken
		case "web":
			t.Error("web was begun")
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestMeets(t *testing.T) {
	for name, test := range map[string]struct {
		c         *nodev1.Container
		condition string
		met, fail bool
	}{
		"starting":      {&nodev1.Container{State: "running", Health: "starting"}, types.ServiceConditionHealthy, false, false},
		"healthy":       {&nodev1.Container{State: "running", Health: "healthy"}, types.ServiceConditionHealthy, true, false},
		"unhealthy":     {&nodev1.Container{State: "running", Health: "unhealthy"}, types.ServiceConditionHealthy, false, true},
		"no check":      {&nodev1.Container{State: "running"}, types.ServiceConditionHealthy, false, true},
		"still running": {&nodev1.Container{State: "running"}, types.ServiceConditionCompletedSuccessfully, false, false},
		"completed":     {&nodev1.Container{State: "exited"}, types.ServiceConditionCompletedSuccessfully, true, false},
		"failed":        {&nodev1.Container{State: "exited", ExitCode: 3}, types.ServiceConditionCompletedSuccessfully, false, true},
		"unknown":       {&nodev1.Container{State: "running"}, "service_happy", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			met, err := meets(test.c, test.condition)
			if met != test.met || (err != nil) != test.fail {
				t.Errorf("got %t, %v, want %t, an error is %t", met, err, test.met, test.fail)
			}
		})
	}
}

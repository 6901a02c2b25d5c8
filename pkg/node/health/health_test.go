package health

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// run probes with the exit codes given, the last for ever, and returns the
// changes with the seconds at which they came.
func run(t *testing.T, c Config, status Status, lasts time.Duration, codes ...int) (changes []string, state State) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		checker := New(c, began, State{Status: status}, func(now State, changed bool) {
			if changed {
				changes = append(changes, string(now.Status)+"@"+time.Since(began).String())
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		i := 0
		checker.Run(ctx, func(context.Context) (int, string, error) {
			code := codes[min(i, len(codes)-1)]
			i++
			return code, "out", nil
		})
		state = checker.State()
	})
	return changes, state
}

func TestTransitions(t *testing.T) {
	second := Config{Interval: time.Second, Retries: 3}
	period := Config{Interval: 10 * time.Second, Retries: 2, StartPeriod: 7 * time.Second, StartInterval: 2 * time.Second}
	for _, test := range []struct {
		name   string
		config Config
		status Status
		codes  []int
		want   []string
	}{
		{"well at once", second, None, []int{0}, []string{"healthy@1s"}},
		{"never well", second, None, []int{1}, []string{"unhealthy@3s"}},
		{"a few failures are none", second, None, []int{0, 1, 1, 0, 1, 1, 0}, []string{"healthy@1s"}},
		{"gets ill and well again", second, None, []int{0, 1, 2, 1, 0}, []string{"healthy@1s", "unhealthy@4s", "healthy@5s"}},
		{"goes on from a status", second, Healthy, []int{0}, nil},
		{"the start period forgives", period, None, []int{1}, []string{"unhealthy@18s"}},
		{"and is over with the first success", period, None, []int{1, 0, 1}, []string{"healthy@4s", "unhealthy@24s"}},
		{"by default", Config{}, None, []int{1}, []string{"unhealthy@1m30s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := run(t, test.config, test.status, 100*time.Second, test.codes...)
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestLogIsBounded(t *testing.T) {
	_, state := run(t, Config{Interval: time.Second}, None, 30*time.Second, 1)
	if len(state.Log) != maxResults || state.Log[0].Output != "out" || state.FailingStreak < maxResults {
		t.Errorf("%+v", state)
	}
}

func TestProbesThatHangOrFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker := New(Config{Interval: time.Second, Timeout: 2 * time.Second, Retries: 1}, time.Now(), State{}, func(State, bool) {})
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		checker.Run(ctx, func(ctx context.Context) (int, string, error) {
			if len(checker.State().Log) > 0 {
				return 0, strings.Repeat("x", 2*maxOutput), errors.New("no such container")
			}
			<-ctx.Done()
			return 0, "so far", context.Cause(ctx)
		})
		log := checker.State().Log
		if len(log) != 2 || log[0].ExitCode != -1 || log[0].Output != "Health check exceeded timeout (2s): so far" ||
			log[1].ExitCode != -1 || log[1].Output != "no such container" {
			t.Errorf("%+v", log)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		config Config
		ok     bool
	}{
		{Config{}, true},
		{Config{Test: []string{"NONE"}}, true},
		{Config{Test: []string{"CMD", "true"}}, true},
		{Config{Test: []string{"CMD-SHELL", "true"}}, true},
		{Config{Test: []string{"CMD-SHELL", "true", "x"}}, false},
		{Config{Test: []string{"CMD"}}, false},
		{Config{Test: []string{"true"}}, false},
		{Config{Interval: -1}, false},
		{Config{Timeout: time.Microsecond}, false},
		{Config{Retries: -1}, false},
	} {
		err := test.config.Validate()
		if (err == nil) != test.ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", test.config, err)
		}
	}
}

func TestOverAndCommand(t *testing.T) {
	image := Config{Test: []string{"CMD-SHELL", "curl /"}, Interval: time.Minute, Retries: 7}
	got := Config{Interval: time.Second}.Over(image)
	if got.Interval != time.Second || got.Retries != 7 || !slices.Equal(got.Command(nil), []string{"/bin/sh", "-c", "curl /"}) {
		t.Errorf("%+v", got)
	}
	if c := (Config{Test: []string{"NONE"}}).Over(image).Command(nil); c != nil {
		t.Error(c)
	}
	if c := (Config{Test: []string{"CMD", "a", "b"}}).Command(nil); !slices.Equal(c, []string{"a", "b"}) {
		t.Error(c)
	}
	if c := image.Command([]string{"/bin/bash", "-ec"}); !slices.Equal(c, []string{"/bin/bash", "-ec", "curl /"}) {
		t.Error(c)
	}
}

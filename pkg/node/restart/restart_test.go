package restart

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name    string
		maximum uint32
		want    Policy
		bad     bool
	}{
		{name: "", want: Policy{Name: No}},
		{name: "no", want: Policy{Name: No}},
		{name: "on-failure", maximum: 3, want: Policy{Name: OnFailure, Maximum: 3}},
		{name: "always", want: Policy{Name: Always}},
		{name: "unless-stopped", want: Policy{Name: UnlessStopped}},
		{name: "always", maximum: 3, bad: true},
		{name: "sometimes", bad: true},
	} {
		got, err := Parse(test.name, test.maximum)
		if test.bad != (err != nil) || err != nil && !errdefs.IsInvalidArgument(err) || got != test.want {
			t.Errorf("%q %d: %v, %v", test.name, test.maximum, got, err)
		}
	}
}

func TestWhoIsRestarted(t *testing.T) {
	for _, test := range []struct {
		policy      Policy
		exit        Exit
		again, boot bool
	}{
		{Policy{Name: No}, Exit{Code: 1}, false, false},
		{Policy{}, Exit{Code: 1}, false, false},
		{Policy{Name: Always}, Exit{}, true, true},
		{Policy{Name: Always}, Exit{Stopped: true}, false, true},
		{Policy{Name: UnlessStopped}, Exit{Code: 1}, true, true},
		{Policy{Name: UnlessStopped}, Exit{Code: 1, Stopped: true}, false, false},
		{Policy{Name: OnFailure}, Exit{Code: 0}, false, false},
		{Policy{Name: OnFailure}, Exit{Code: 1, Restarts: 1000}, true, true},
		{Policy{Name: OnFailure}, Exit{Code: 1, Stopped: true}, false, false},
		{Policy{Name: OnFailure, Maximum: 2}, Exit{Code: 1, Restarts: 1}, true, true},
		{Policy{Name: OnFailure, Maximum: 2}, Exit{Code: 1, Restarts: 2}, false, false},
	} {
		if _, again := test.policy.After(test.exit); again != test.again {
			t.Errorf("%+v after %+v: %v", test.policy, test.exit, again)
		}
		if boot := test.policy.AtBoot(test.exit); boot != test.boot {
			t.Errorf("%+v after %+v at boot: %v", test.policy, test.exit, boot)
		}
	}
}

func TestWaitDoublesAndStartsAnew(t *testing.T) {
	p := Policy{Name: Always}
	e := Exit{}
	for _, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000} {
		wait, _ := p.After(e)
		if wait != want*time.Millisecond {
			t.Errorf("waits %v, want %v", wait, want*time.Millisecond)
		}
		e.Wait = wait
	}
	e.Ran = longRun
	if wait, _ := p.After(e); wait != minWait {
		t.Errorf("waits %v after a long run", wait)
	}
}

package argument

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestTime(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for s, want := range map[string]int64{
		"": 0, "10m": now.Add(-10 * time.Minute).UnixNano(), "1700000000": 1700000000e9, "1700000000.5": 17000000005e8,
		"2026-01-02T15:04:05Z": time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC).UnixNano(), "2026-01-02": time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC).UnixNano(),
	} {
		if got, err := Time(s, now); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"yesterday", ".", "12:00", "99999999999999999999"} {
		if got, err := Time(s, now); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
}

func TestCount(t *testing.T) {
	cmd := &cobra.Command{Use: "verb"}
	for _, test := range []struct {
		wants cobra.PositionalArgs
		given int
		error string
	}{
		{None(), 0, ""}, {None(), 1, `"verb" accepts no arguments.`},
		{Exactly(1), 1, ""}, {Exactly(1), 0, "requires exactly 1 argument."}, {Exactly(2), 3, "requires exactly 2 arguments."},
		{AtLeast(1), 9, ""}, {AtLeast(1), 0, "requires at least 1 argument."}, {AtLeast(12), 0, "requires at least 12 arguments."},
		{Between(0, 1), 2, "requires at most 1 argument."}, {Between(1, 2), 0, "requires 1 to 2 arguments."},
	} {
		err := test.wants(cmd, make([]string, test.given))
		if err == nil != (test.error == "") || err != nil && (!strings.Contains(err.Error(), test.error) || !strings.Contains(err.Error(), "verb --help")) {
			t.Errorf("%d given: %v, want %q", test.given, err, test.error)
		}
	}
}

func TestFilter(t *testing.T) {
	if key, value, err := Filter("label=a=b", "label"); key != "label" || value != "a=b" || err != nil {
		t.Errorf("%q, %q, %v", key, value, err)
	}
	for _, s := range []string{"label", "", "other=x"} {
		if _, _, err := Filter(s, "label"); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestPairs(t *testing.T) {
	got, err := Pairs("label", []string{"a=1", "b", "a=2=3"})
	if err != nil || !maps.Equal(got, map[string]string{"a": "2=3", "b": ""}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Pairs("label", []string{"a=1", "=2"}); err == nil {
		t.Error("a pair without a key")
	}
}

func TestHasLabel(t *testing.T) {
	labels := map[string]string{"a": "1", "b": ""}
	for filter, want := range map[string]bool{"a": true, "a=1": true, "a=": false, "b": true, "b=": true, "c": false, "c=": false} {
		if HasLabel(labels, filter) != want {
			t.Errorf("%s: not %v", filter, want)
		}
	}
}

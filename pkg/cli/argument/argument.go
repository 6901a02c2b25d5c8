// Package argument reads what people type after a verb: how many words there may
// be, times, and pairs of a key and a value.
package argument

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// many is more arguments than anybody gives.
const many = 1 << 30

// None wants no arguments.
func None() cobra.PositionalArgs { return Between(0, 0) }

// Exactly wants that many arguments.
func Exactly(count int) cobra.PositionalArgs { return Between(count, count) }

// AtLeast wants that many arguments or more.
func AtLeast(least int) cobra.PositionalArgs { return Between(least, many) }

// Between wants a number of arguments, and says so in words.
func Between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return fmt.Errorf("%q %s.\nSee '%s --help'.\n\nUsage:  %s", cmd.CommandPath(), wants(least, most), cmd.CommandPath(), cmd.UseLine())
	}
}

func wants(least, most int) string {
	how, last := fmt.Sprintf("exactly %d", least), least
	switch {
	case most == 0:
		return "accepts no arguments"
	case most == many:
		how = fmt.Sprintf("at least %d", least)
	case most != least && least > 0:
		how, last = fmt.Sprintf("%d to %d", least, most), most
	case most != least:
		how, last = fmt.Sprintf("at most %d", most), most
	}
	if last == 1 {
		return "requires " + how + " argument"
	}
	return "requires " + how + " arguments"
}

// Pair reads KEY=VALUE; without a = the value is empty.
func Pair(what, s string) (key, value string, err error) {
	key, value, _ = strings.Cut(s, "=")
	if strings.TrimSpace(key) == "" {
		return "", "", fmt.Errorf("invalid %s %q: it is KEY=VALUE", what, s)
	}
	return key, value, nil
}

// Pairs reads many of them; the last of a key counts.
func Pairs(what string, list []string) (map[string]string, error) {
	all := make(map[string]string)
	for _, s := range list {
		key, value, err := Pair(what, s)
		if err != nil {
			return nil, err
		}
		all[key] = value
	}
	return all, nil
}

// HasLabel reports whether there is the label that a filter label=KEY or
// label=KEY=VALUE wants.
func HasLabel(labels map[string]string, filter string) bool {
	key, want, exact := strings.Cut(filter, "=")
	got, ok := labels[key]
	return ok && (!exact || got == want)
}

// Bool reads the value of a filter that is true or false.
func Bool(key, value string) (bool, error) {
	yes, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid filter '%s=%s': it can be true or false", key, value)
	}
	return yes, nil
}

// Filter reads the KEY=VALUE of a --filter, whose key is one of keys.
func Filter(s string, keys ...string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", fmt.Errorf("invalid filter %q: it is KEY=VALUE", s)
	}
	if slices.Contains(keys, key) {
		return key, value, nil
	}
	return "", "", fmt.Errorf("invalid filter %q: it can be %s", key, strings.Join(keys, ", "))
}

// Time reads a time, or how long ago it was, into nanoseconds since 1970; an
// empty one is 0.
func Time(s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d).UnixNano(), nil
	}
	if seconds, fraction, _ := strings.Cut(s, "."); strings.Trim(seconds+fraction, "0123456789") == "" {
		sec, err := strconv.ParseInt(seconds, 10, 64)
		nanos, nanosErr := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		if err == nil && nanosErr == nil && sec < 1<<33 {
			return time.Unix(sec, nanos).UnixNano(), nil
		}
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04",
		"2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t.UnixNano(), nil
		}
	}
	return 0, fmt.Errorf("%q is no time (2026-01-02T15:04:05, seconds since 1970) and no duration (10m, 1h30m)", s)
}

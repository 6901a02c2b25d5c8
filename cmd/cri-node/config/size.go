package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as a plain number or as "16MiB".
type Size int64

// sizeUnits goes from the largest down, so that formatting finds the shortest
// exact form; the empty unit is last, so that parsing tries it last.
func sizeUnits() []struct {
	name  string
	bytes Size
} {
	return []struct {
		name  string
		bytes Size
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}
}

// UnmarshalText parses "16MiB", "512 KiB" and "4096". Units are powers of 1024;
// "MB" is refused, because it means one thing here and another there.
func (s *Size) UnmarshalText(text []byte) error {
	value, err := parseSize(string(text))
	if err != nil {
		return fmt.Errorf("%q is no size such as \"16MiB\": %w", text, err)
	}
	*s = value
	return nil
}

func parseSize(text string) (Size, error) {
	for _, unit := range sizeUnits() {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimRight(digits, " "), 10, 64)
		switch {
		case err != nil:
			return 0, errors.New("want a whole number and one of B, KiB, MiB, GiB, TiB")
		case n < 0:
			return 0, errors.New("want a positive number")
		case n > math.MaxInt64/int64(unit.bytes):
			return 0, errors.New("too large")
		}
		return Size(n) * unit.bytes, nil
	}
	return 0, nil // not reached: every string ends in the empty unit
}

// String prints the shortest exact form.
func (s Size) String() string {
	for _, unit := range sizeUnits() {
		if s >= unit.bytes && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText prints what String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

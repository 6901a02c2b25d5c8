package output

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
)

// ShortLength is how much of an id people get to see.
const ShortLength = 12

// ShortID is the beginning of an id, without the name of its algorithm.
func ShortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(len(id), ShortLength)]
}

// Ago says when t was, seen from now: "3 minutes ago".
func Ago(now, t time.Time) string {
	if t.IsZero() || t.UnixNano() == 0 {
		return "N/A"
	}
	return Duration(now.Sub(t)) + " ago"
}

// Duration is a length of time in the words of docker.
func Duration(d time.Duration) string {
	seconds, minutes := int(d.Seconds()), int(d.Minutes())
	hours := int(math.Round(d.Hours()))
	switch {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return fmt.Sprintf("%d seconds", seconds)
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return fmt.Sprintf("%d minutes", minutes)
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months", hours/24/30)
	}
	return fmt.Sprintf("%d years", int(d.Hours())/24/365)
}

// Size is a number of bytes in powers of a thousand, three digits of it: "1.24MB".
func Size(bytes int64) string { return SizeDigits(bytes, 3) }

// SizeDigits is Size with so many digits.
func SizeDigits(bytes int64, digits int) string {
	value, unit := scale(float64(bytes), 1000, []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"})
	return number(value, digits) + unit
}

// number prints so many digits of value, and never an exponent.
func number(value float64, digits int) string {
	s := fmt.Sprintf("%.*g", digits, value)
	if strings.Contains(s, "e") {
		return fmt.Sprintf("%.0f", value)
	}
	return s
}

// BinarySize is a number of bytes in powers of 1024, four digits of it: "1.944GiB".
func BinarySize(bytes int64) string {
	value, unit := scale(float64(bytes), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"})
	return number(value, 4) + unit
}

func scale(value, base float64, units []string) (float64, string) {
	i := 0
	for ; value >= base && i < len(units)-1; i++ {
		value /= base
	}
	return value, units[i]
}

// Labels are in the form KEY=VALUE,KEY=VALUE.
func Labels(labels map[string]string) string {
	words := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, k+"="+labels[k])
	}
	return strings.Join(words, ",")
}

// Printable is text of strangers, such as the name of a container's file, that does
// no more to a terminal than to be seen there.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Ellipsis shortens s to so many characters, with an ellipsis for the last one.
func Ellipsis(s string, length int) string {
	r := []rune(s)
	if len(r) <= length {
		return s
	}
	return string(r[:max(length-1, 0)]) + "…"
}

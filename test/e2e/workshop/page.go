package workshop

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// step is a line that is typed, and what the terminal is to show then.
type step struct {
	line int
	// prompt is that of the host's shell ("$"), a container's ("#") or python's (">>>").
	prompt, typed string
	shows         []string
	// mirror: the block needs a mirror of Debian.
	mirror bool
}

// typed lines of a page begin with one of these.
var prompts = regexp.MustCompile(`^(\$|root@….*?#|>>>) ?(.*)$`)

// read takes the steps out of the console blocks of a page.
func read(path string) ([]step, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var steps []step
	inside, mirror := false, false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "```console"):
			inside, mirror = true, strings.Contains(line, "mirror")
			continue
		case strings.HasPrefix(line, "```"):
			inside = false
			continue
		case !inside || line == "":
			continue
		}
		m := prompts.FindStringSubmatch(line)
		switch {
		case m != nil:
			prompt := m[1]
			if strings.HasPrefix(prompt, "root@") {
				prompt = "#"
			}
			steps = append(steps, step{line: i + 1, prompt: prompt, typed: m[2], mirror: mirror})
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d shows something before anything is typed", i+1)
		default:
			last := &steps[len(steps)-1]
			last.shows = append(last.shows, line)
		}
	}
	return steps, nil
}

// matches says whether lines that are shown are on the terminal, in this order. …
// stands for anything, and so does room of any width.
func matches(shows []string, output string) error {
	lines := strings.Split(output, "\n")
	for _, want := range shows {
		parts := strings.Split(want, "…")
		for i, part := range parts {
			words := strings.Fields(part)
			for j := range words {
				words[j] = regexp.QuoteMeta(words[j])
			}
			parts[i] = strings.Join(words, `\s+`)
		}
		pattern, err := regexp.Compile(`^\s*` + strings.Join(parts, `.*`) + `\s*$`)
		if err != nil {
			return err
		}
		found := -1
		for i, line := range lines {
			if pattern.MatchString(line) {
				found = i
				break
			}
		}
		if found < 0 {
			return fmt.Errorf("no line like %q", want)
		}
		lines = lines[found+1:]
	}
	return nil
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// origin is where a key was set: a file and a line, or a flag without one.
type origin struct {
	source string
	line   int
}

func (o origin) String() string {
	if o.line == 0 {
		return o.source
	}
	return o.source + ":" + strconv.Itoa(o.line)
}

// recordOrigins notes the line of each key of a document.
func (c *Config) recordOrigins(source string, data []byte) error {
	var parser unstable.Parser
	parser.Reset(data)
	var table []string
	for parser.NextExpression() {
		expression := parser.Expression()
		switch expression.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = keyParts(expression.Key())
			c.setOrigin(&parser, source, table, expression.Key())
		case unstable.KeyValue:
			c.recordKeyValue(&parser, source, table, expression)
		default: // a comment
		}
	}
	return parser.Error()
}

// recordKeyValue notes one "key = value", and what an inline table holds.
func (c *Config) recordKeyValue(parser *unstable.Parser, source string, table []string, node *unstable.Node) {
	key := append(slices.Clip(table), keyParts(node.Key())...)
	c.setOrigin(parser, source, key, node.Key())
	if value := node.Value(); value.Kind == unstable.InlineTable {
		for it := value.Children(); it.Next(); {
			c.recordKeyValue(parser, source, key, it.Node())
		}
	}
}

func (c *Config) setOrigin(parser *unstable.Parser, source string, key []string, at unstable.Iterator) {
	if !at.Next() {
		return
	}
	line := parser.Shape(at.Node().Raw).Start.Line
	c.origins[strings.Join(key, ".")] = origin{source, line}
}

func keyParts(it unstable.Iterator) []string {
	var parts []string
	for it.Next() {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

// explain turns the decoder's errors into lines of "file:line: key: what".
func explain(source string, data []byte, err error) error {
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for i := range missing.Errors {
			errs = append(errs, position(source, &missing.Errors[i], "unknown key"))
		}
		return errors.Join(errs...)
	}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		return position(source, decode, plainMessage(decode.Error()))
	}
	return locate(source, data, err)
}

// locate finds what an error without a position is about: the decoder gives
// none where a number meets a type that parses text. The culprit is the last
// line of the shortest document that has the same error.
func locate(source string, data []byte, err error) error {
	var seen Config
	seen.origins = make(map[string]origin)
	if parseErr := seen.recordOrigins(source, data); parseErr != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	keys := slices.SortedFunc(maps.Keys(seen.origins), func(a, b string) int {
		return seen.origins[a].line - seen.origins[b].line
	})
	lines := bytes.SplitAfter(data, []byte("\n"))
	for i, key := range keys {
		end := len(lines)
		if i+1 < len(keys) {
			end = seen.origins[keys[i+1]].line - 1
		}
		found := toml.Unmarshal(bytes.Join(lines[:end], nil), &Config{})
		if found != nil && found.Error() == err.Error() {
			return fmt.Errorf("%s: %s: %w", seen.origins[key], key, err)
		}
	}
	return fmt.Errorf("%s: %w", source, err)
}

func position(source string, at *toml.DecodeError, message string) error {
	var where []string
	if source != "" {
		line, _ := at.Position()
		where = append(where, origin{source, line}.String())
	}
	if key := at.Key(); len(key) > 0 {
		where = append(where, strings.Join(key, "."))
	}
	return errors.New(strings.Join(append(where, message), ": "))
}

// mismatch is the decoder's word for a value of the wrong kind, which speaks of
// Go types.
var mismatch = regexp.MustCompile(`^cannot decode TOML (\w+) into (?:.* of type )?(\S+)$`)

func plainMessage(message string) string {
	message = strings.TrimPrefix(message, "toml: ")
	found := mismatch.FindStringSubmatch(message)
	if found == nil {
		return message
	}
	return fmt.Sprintf("is a TOML %s, want %s", found[1], kindName(found[2]))
}

func kindName(goType string) string {
	switch {
	case goType == "bool":
		return "true or false"
	case goType == "config.Duration":
		return `a duration such as "30s"`
	case goType == "config.Size":
		return `a size such as "16MiB"`
	case strings.HasPrefix(goType, "int"):
		return "an integer"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case strings.HasPrefix(goType, "map["), strings.HasPrefix(goType, "config."):
		return "a table"
	default:
		return "a string"
	}
}

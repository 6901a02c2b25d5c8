package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

// Options are the flags that say how a list is printed.
type Options struct {
	// Format is empty or "table" for the table, "json" for an object a line, or a
	// Go template, with "table " before it for columns with headers.
	Format string
	// Output is empty, or "json" for one JSON array of the daemon's own objects.
	Output string
	// Quiet prints the first column of the rows' Key alone.
	Quiet   bool
	NoTrunc bool
}

// AddFlags adds --format and -o.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Format, "format", "", "print with a Go `template`, or \"table TEMPLATE\", or json for an object a line")
	flags.StringVarP(&o.Output, "output", "o", "", "json prints one JSON array of all that is known")
}

// AddListFlags adds those of AddFlags, -q and --no-trunc.
func (o *Options) AddListFlags(flags *pflag.FlagSet) {
	o.AddFlags(flags)
	flags.BoolVarP(&o.Quiet, "quiet", "q", false, "print ids only")
	flags.BoolVar(&o.NoTrunc, "no-trunc", false, "print ids and commands in full")
}

// Check refuses what no list can print.
func (o *Options) Check() error {
	if o.Output != "" && o.Output != "json" {
		return fmt.Errorf("-o %s is unknown: it can be json (templates go to --format)", o.Output)
	}
	if o.Output != "" && o.Format != "" {
		return errors.New("-o and --format exclude each other")
	}
	return nil
}

// Column is a column of a list's table.
type Column struct {
	// Field is the name in templates, Header what stands over it.
	Field, Header string
	// Hidden columns have a header in "table TEMPLATE" but are not in the table.
	Hidden bool
}

// List is what a list verb prints.
type List[T any] struct {
	Columns []Column
	Rows    []T
	// Key is the field that Quiet prints.
	Key string
	// Raw is what -o json prints; nil is Rows.
	Raw any
}

// Print prints the list.
func (l List[T]) Print(w io.Writer, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	switch {
	case o.Output == "json":
		raw := l.Raw
		if raw == nil {
			raw = append([]T{}, l.Rows...) // never null
		}
		return JSON(w, raw)
	case o.Quiet && (o.Format == "" || o.Format == "table"):
		return l.lines(w, "{{."+l.Key+"}}")
	case o.Format == "json":
		for _, row := range l.Rows {
			line, err := compact(row)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
				return err
			}
		}
		return nil
	case o.Format == "" || o.Format == "table":
		return l.table(printableLines{w}, l.defaultTable())
	case strings.HasPrefix(o.Format, "table "):
		return l.table(w, strings.TrimSpace(strings.TrimPrefix(o.Format, "table ")))
	}
	return l.lines(w, o.Format)
}

// printableLines passes on what is Printable, and the ends of lines.
type printableLines struct{ io.Writer }

// Write does not split characters where the writer before it does not.
func (p printableLines) Write(b []byte) (int, error) {
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		lines[i] = Printable(line)
	}
	if _, err := io.WriteString(p.Writer, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (l List[T]) defaultTable() string {
	var fields []string
	for _, c := range l.Columns {
		if !c.Hidden {
			fields = append(fields, "{{."+c.Field+"}}")
		}
	}
	return strings.Join(fields, "\t")
}

// lines prints each row by a template.
func (l List[T]) lines(w io.Writer, text string) error {
	t, err := parse(unescape(text))
	if err != nil {
		return err
	}
	for _, row := range l.Rows {
		if err := t.Execute(w, row); err != nil {
			return templateError(err)
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	return nil
}

// table prints each row by a template, below headers, in aligned columns.
func (l List[T]) table(w io.Writer, text string) error {
	text = unescape(text)
	header, err := l.header(text)
	if err != nil {
		return err
	}
	tab := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if _, err := io.WriteString(tab, header+"\n"); err != nil {
		return err
	}
	if err := l.lines(tab, text); err != nil {
		return err
	}
	return tab.Flush()
}

// header is the template's line of headers: the template executed on a row whose
// fields are the headers.
func (l List[T]) header(text string) (string, error) {
	headers := make(map[string]any, len(l.Columns))
	for _, c := range l.Columns {
		headers[c.Field] = c.Header
	}
	// Fields without a column of their own have their name for one.
	for field := range reflect.TypeFor[T]().Fields() {
		if _, ok := headers[field.Name]; !ok && field.IsExported() {
			headers[field.Name] = strings.ToUpper(field.Name)
		}
	}
	// {{.Label "x"}}: the label's last word is its header, as with docker.
	headers["Label"] = func(name string) string {
		name = name[strings.LastIndexAny(name, ".")+1:]
		return strings.NewReplacer("-", " ", "_", " ").Replace(name)
	}
	t, err := parse(callable(text))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, headers); err != nil {
		return "", templateError(err)
	}
	return b.String(), nil
}

// callable turns the method call {{.Label "x"}} into the call of a map's
// function.
func callable(text string) string {
	return strings.ReplaceAll(text, ".Label ", "call .Label ")
}

// JSON prints a value indented.
func JSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	return e.Encode(value)
}

func compact(value any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}

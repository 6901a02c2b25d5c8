package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/template"
)

// parse makes a template with docker's functions.
func parse(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := compact(v)
			return string(b), err
		},
		"split":    strings.Split,
		"join":     join,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
	}).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, templateError(err)
	}
	return t, nil
}

func templateError(err error) error { return fmt.Errorf("template parsing error: %w", err) }

// unescape lets people write \t and \n in a shell's quotes.
func unescape(text string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
}

// join takes lists of strings and, unlike strings.Join, those out of JSON.
func join(list any, separator string) (string, error) {
	switch list := list.(type) {
	case []string:
		return strings.Join(list, separator), nil
	case []any:
		words := make([]string, len(list))
		for i, v := range list {
			words[i] = fmt.Sprint(v)
		}
		return strings.Join(words, separator), nil
	case nil:
		return "", nil
	}
	return "", fmt.Errorf("join: %T is no list", list)
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func pad(s string, before, after int) string {
	return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
}

func truncate(s string, length int) string {
	if r := []rune(s); length >= 0 && len(r) > length {
		return string(r[:length])
	}
	return s
}

// Objects prints documents in JSON: as one array, or each by a template.
func Objects(w io.Writer, format string, documents [][]byte) error {
	if format == "" {
		return array(w, documents)
	}
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := parse(unescape(format))
	if err != nil {
		return err
	}
	for _, d := range documents {
		value, err := decode(d)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := t.Execute(&line, value); err != nil {
			return templateError(err)
		}
		line.WriteByte('\n')
		if _, err := w.Write(line.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// array prints documents indented, with their keys in the order they came in.
func array(w io.Writer, documents [][]byte) error {
	if len(documents) == 0 {
		_, err := io.WriteString(w, "[]\n")
		return err
	}
	all := append([]byte{'['}, bytes.Join(documents, []byte{','})...)
	var b bytes.Buffer
	if err := json.Indent(&b, append(all, ']'), "", "    "); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// decode reads JSON with numbers that templates can compare and print.
func decode(document []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return numbers(value), nil
}

func numbers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return value
}

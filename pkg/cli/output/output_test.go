package output

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

type row struct {
	ID, Names, Labels string
	labels            map[string]string
}

// Label is the value of a label.
func (r row) Label(name string) string { return r.labels[name] }

func rows() List[row] {
	return List[row]{
		Columns: []Column{{Field: "ID", Header: "CONTAINER ID"}, {Field: "Names", Header: "NAMES"}, {Field: "Labels", Header: "LABELS", Hidden: true}},
		Rows: []row{
			{ID: "0123456789ab", Names: "web", Labels: "com.example/tier=front", labels: map[string]string{"com.example.tier": "front"}},
			{ID: "ba9876543210", Names: "a-long-name-for-a-database"},
		},
		Key: "ID",
	}
}

func TestList(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		want    string
		refused string
	}{
		"table": {want: "CONTAINER ID   NAMES\n" +
			"0123456789ab   web\n" +
			"ba9876543210   a-long-name-for-a-database\n"},
		"table word": {options: Options{Format: "table"}, want: "CONTAINER ID   NAMES\n" +
			"0123456789ab   web\n" +
			"ba9876543210   a-long-name-for-a-database\n"},
		"quiet":    {options: Options{Quiet: true}, want: "0123456789ab\nba9876543210\n"},
		"template": {options: Options{Format: `{{.Names}}: {{upper .ID}}`}, want: "web: 0123456789AB\na-long-name-for-a-database: BA9876543210\n"},
		"template table": {options: Options{Format: `table {{.Names}}\t{{.Labels}}`}, want: "NAMES                        LABELS\n" +
			"web                          com.example/tier=front\n" +
			"a-long-name-for-a-database   \n"},
		"label": {options: Options{Format: `table {{.ID}}\t{{.Label "com.example.tier"}}`}, want: "CONTAINER ID   tier\n" +
			"0123456789ab   front\n" +
			"ba9876543210   \n"},
		"json lines": {options: Options{Format: "json"}, want: `{"ID":"0123456789ab","Names":"web","Labels":"com.example/tier=front"}` + "\n" +
			`{"ID":"ba9876543210","Names":"a-long-name-for-a-database","Labels":""}` + "\n"},
		"unknown field":   {options: Options{Format: "{{.Nothing}}"}, refused: "can't evaluate field Nothing"},
		"no template":     {options: Options{Format: "{{"}, refused: "template parsing error"},
		"unknown output":  {options: Options{Output: "yaml"}, refused: "-o yaml is unknown"},
		"format and json": {options: Options{Output: "json", Format: "json"}, refused: "exclude each other"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := rows().Print(&out, test.options)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Fatalf("error is %v, want %q", err, test.refused)
				}
				return
			}
			if err != nil || out.String() != test.want {
				t.Errorf("printed %q, %v, want %q", out.String(), err, test.want)
			}
		})
	}
}

func TestListJSON(t *testing.T) {
	var out bytes.Buffer
	if err := (List[row]{}).Print(&out, Options{Output: "json"}); err != nil || out.String() != "[]\n" {
		t.Errorf("an empty list prints %q, %v", out.String(), err)
	}
}

func TestObjects(t *testing.T) {
	document := []byte(`{"Id":"x","State":{"Running":true,"Pid":4242,"Load":0.5},"Config":{"Cmd":["sh","-c"],"Env":null}}`)
	for name, test := range map[string]struct{ format, want, refused string }{
		"array":     {want: "[\n    {\n        \"Id\": \"x\",\n"},
		"number":    {format: "{{.State.Pid}} {{eq .State.Pid 4242}} {{.State.Load}}", want: "4242 true 0.5\n"},
		"json":      {format: "{{json .Config.Cmd}}", want: `["sh","-c"]` + "\n"},
		"all":       {format: "json", want: `{"Config":`},
		"join":      {format: `{{join .Config.Cmd " "}}{{join .Config.Env ","}}`, want: "sh -c\n"},
		"range":     {format: `{{range .Config.Cmd}}<{{.}}>{{end}}`, want: "<sh><-c>\n"},
		"no key":    {format: "{{.Nothing}}", refused: `map has no entry for key "Nothing"`},
		"no object": {format: "{{.Id.X}}", refused: "template parsing error"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Objects(&out, test.format, [][]byte{document})
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("error is %v, want %q", err, test.refused)
				}
				return
			}
			if err != nil || !strings.HasPrefix(out.String(), test.want) {
				t.Errorf("printed %q, %v, want %q", out.String(), err, test.want)
			}
		})
	}
}

func TestWords(t *testing.T) {
	for want, got := range map[string]string{
		"Less than a second": Duration(time.Millisecond),
		"1 second":           Duration(time.Second),
		"59 seconds":         Duration(59 * time.Second),
		"About a minute":     Duration(61 * time.Second),
		"5 minutes":          Duration(5 * time.Minute),
		"About an hour":      Duration(time.Hour),
		"47 hours":           Duration(47 * time.Hour),
		"3 days":             Duration(3 * 24 * time.Hour),
		"2 weeks":            Duration(15 * 24 * time.Hour),
		"2 months":           Duration(61 * 24 * time.Hour),
		"2 years":            Duration(800 * 24 * time.Hour),
		"0B":                 Size(0),
		"1.24MB":             Size(1_240_000),
		"72.8MB":             Size(72_800_000),
		"1000kB":             Size(999_999),
		"1.5kB":              Size(1500),
		"1.944GiB":           BinarySize(2087354105),
		"512MiB":             BinarySize(512 << 20),
		"abcdef012345":       ShortID("sha256:abcdef0123456789"),
		"abc":                ShortID("abc"),
		"abc…":               Ellipsis("abcdef", 4),
		"äöü":                Ellipsis("äöü", 3),
		"N/A":                Ago(time.Now(), time.Unix(0, 0)),
		"2 minutes ago":      Ago(time.Unix(1000, 0), time.Unix(870, 0)),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What strangers have named does nothing to the terminal of who lists it. Scripts
// that ask for a format get it as it is.
func TestListOfStrangers(t *testing.T) {
	l := rows()
	l.Rows[0].Names = "\x1b]0;mine\x07w\u00e9b\u202e"
	for format, want := range map[string]string{"": "0123456789ab   \uFFFD]0;mine\uFFFDw\u00e9b\uFFFD\n", "{{.Names}}": l.Rows[0].Names + "\n"} {
		var out bytes.Buffer
		if err := l.Print(&out, Options{Format: format}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q prints %q, %v", format, out.String(), err)
		}
	}
}

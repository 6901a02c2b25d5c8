package signature

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFor(t *testing.T) {
	rules := []Rule{
		{Prefix: "", Type: TypeReject},
		{Prefix: "docker.io", Type: TypeAccept},
		{Prefix: "registry.example.com/team", Type: TypeReject, DryRun: true},
		{Prefix: "registry.example.com/team/app", Type: TypeAccept},
		{Prefix: "", Namespace: "free", Type: TypeAccept},
		{Prefix: "docker.io/library", Namespace: "free", Type: TypeReject},
	}
	p, err := Load(rules)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		image, namespace string
		want             int // index of the rule; -1 is accepted
	}{
		{"quay.io/x/y", "", 0},
		{"busybox", "", -1},
		{"registry.example.com/team/other:1", "", 2},
		{"registry.example.com/team", "", 2},
		{"registry.example.com/team/app:2", "", -1},
		{"registry.example.com/team/app2", "", 2},
		{"registry.example.com/teams/app", "", 0},
		{"quay.io/x/y", "free", -1},
		{"quay.io/x/y", "other", 0},
		{"busybox", "free", 5},
		{"docker.io/someone/busybox", "free", -1},
	}
	for _, test := range tests {
		q := p.For(parse(t, test.image), test.namespace)
		switch {
		case q == nil && test.want < 0:
		case q == nil:
			t.Errorf("%s for %q is accepted, want rule %d", test.image, test.namespace, test.want)
		case test.want < 0:
			t.Errorf("%s for %q has rule %+v, want it accepted", test.image, test.namespace, q.rule)
		case q.rule.Prefix != rules[test.want].Prefix || q.rule.Namespace != rules[test.want].Namespace:
			t.Errorf("%s for %q has rule %+v, want %d", test.image, test.namespace, q.rule, test.want)
		}
	}
	if (*Policy)(nil).For(parse(t, "busybox"), "") != nil {
		t.Error("the nil policy asks for something")
	}
}

func TestReject(t *testing.T) {
	r := newRepository()
	expect(t, check(t, Rule{Type: TypeReject}, r, r.image()), "not allowed")
}

func TestLoad(t *testing.T) {
	good := newSigner(t).File
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	text := write("text", "hello")
	key, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	two := write("two", string(key)+string(key))
	identity := []Identity{{Issuer: "i", Subject: "s"}}
	tests := map[string]struct {
		rule Rule
		want string
	}{
		"good":                   {Rule{Type: TypeSigstore, Keys: []string{good}, Prefix: "localhost:5000/x"}, ""},
		"no type":                {Rule{}, "type is"},
		"unknown type":           {Rule{Type: "gpg"}, "type is"},
		"short prefix":           {Rule{Type: TypeReject, Prefix: "library"}, "prefix"},
		"prefix with tag":        {Rule{Type: TypeReject, Prefix: "docker.io/library/busybox:1"}, "prefix"},
		"prefix with slash":      {Rule{Type: TypeReject, Prefix: "docker.io/"}, "prefix"},
		"accept with keys":       {Rule{Type: TypeAccept, Keys: []string{good}}, "takes no keys"},
		"sigstore without keys":  {Rule{Type: TypeSigstore}, "needs keys"},
		"root without identity":  {Rule{Type: TypeSigstore, TrustedRoot: text}, "need each other"},
		"identity without root":  {Rule{Type: TypeSigstore, Keys: []string{good}, Identities: identity}, "need each other"},
		"empty identity":         {Rule{Type: TypeSigstore, TrustedRoot: text, Identities: []Identity{{}}}, "identities[0]"},
		"bad root":               {Rule{Type: TypeSigstore, TrustedRoot: text, Identities: identity}, "trusted root"},
		"missing key":            {Rule{Type: TypeSigstore, Keys: []string{dir + "/none"}}, "no such file"},
		"key is text":            {Rule{Type: TypeSigstore, Keys: []string{text}}, "is not PEM"},
		"two keys in a file":     {Rule{Type: TypeSigstore, Keys: []string{two}}, "more than one"},
		"key as certificate":     {Rule{Type: TypeNotation, Certificates: []string{good}}, "want CERTIFICATE"},
		"notation without certs": {Rule{Type: TypeNotation}, "needs certificates"},
		"notation with keys":     {Rule{Type: TypeNotation, Certificates: []string{good}, Keys: []string{good}}, "takes no keys"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]Rule{test.rule})
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	if _, err := Load([]Rule{{Type: TypeReject}, {Type: TypeAccept}}); err == nil {
		t.Error("two rules for the same images were taken")
	}
}

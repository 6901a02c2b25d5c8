package govalidator

import "testing"

func TestIsEmail(t *testing.T) {
	for text, want := range map[string]bool{
		"a@example.org": true, "a.b+c@mail.example.org": true,
		"": false, "a": false, "@example.org": false, "a@": false, "a@localhost": false, "a@.": false,
		"A <a@example.org>": false, "<a@example.org>": false, "a@example.org, b@example.org": false, "a@example.org ": false,
	} {
		if got := IsEmail(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

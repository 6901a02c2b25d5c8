package compose

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestFiles(t *testing.T) {
	t.Setenv("TEST_PASSWORD", "hunter2")
	p := project(t, `
services:
  web:
    image: a
    secrets: [{source: password, mode: 0400, uid: "5"}]
    configs: [{source: site, target: /etc/site/conf}]
secrets: {password: {environment: TEST_PASSWORD}}
configs: {site: {content: "port 80"}}
`)
	s := p.Services["web"]
	all, err := files(p, &s)
	if err != nil {
		t.Fatal(err)
	}
	data, err := archive(all)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == "run/secrets/password" {
			content, _ := io.ReadAll(r)
			if string(content) != "hunter2" || h.Mode != 0o400 || h.Uid != 5 {
				t.Errorf("got %q, mode %o, uid %d", content, h.Mode, h.Uid)
			}
		}
	}
	want := []string{"run/secrets/password", "etc/site/conf"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestFilesOfVariablesThatAreNotSet(t *testing.T) {
	p := project(t, "services: {web: {image: a, secrets: [key]}}\nsecrets: {key: {environment: SURELY_NOT_SET}}\n")
	s := p.Services["web"]
	if _, err := files(p, &s); err == nil {
		t.Error("a secret of a variable that is not set was taken")
	}
}

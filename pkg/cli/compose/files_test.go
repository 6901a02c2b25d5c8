package compose

import "testing"

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
	if len(all) != 2 || all[0].Path != "/run/secrets/password" || string(all[0].Content) != "hunter2" ||
		all[0].Mode != 0o400 || all[0].UID != 5 || all[1].Path != "/etc/site/conf" {
		t.Errorf("got %+v", all)
	}
}

func TestFilesOfVariablesThatAreNotSet(t *testing.T) {
	p := project(t, "services: {web: {image: a, secrets: [key]}}\nsecrets: {key: {environment: SURELY_NOT_SET}}\n")
	s := p.Services["web"]
	if _, err := files(p, &s); err == nil {
		t.Error("a secret of a variable that is not set was taken")
	}
}

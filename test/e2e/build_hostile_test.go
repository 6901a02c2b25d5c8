package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// canary is a directory of the machine that no build may look into or write to.
func (b *builds) canary() string {
	b.Helper()
	dir := b.temp()
	b.must(os.WriteFile(filepath.Join(dir, "secret"), []byte("of the machine"), 0o644))
	b.must(os.Chmod(dir, 0o777))
	b.Cleanup(func() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			b.Errorf("a build has changed a directory of the machine: %v, %v", entries, err)
		}
	})
	return dir
}

// archive is a tar of hostile entries.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = h.Linkname
			h.Linkname, h.Size = "", int64(len(text))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// file is an entry with a content.
func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: text, Mode: 0o644}
}

// breakouts are tars that write beside where they are unpacked, or would.
func breakouts(canary string) map[string][]tar.Header {
	up := strings.Repeat("../", 20)
	return map[string][]tar.Header{
		"dots":          {file(up+canary[1:]+"/evil", "x")},
		"absolute":      {file(canary+"/evil", "x")},
		"link to dir":   {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: canary}, file("l/evil", "x")},
		"link with ..":  {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: up + canary[1:]}, file("l/evil", "x")},
		"link to file":  {{Typeflag: tar.TypeSymlink, Name: "f", Linkname: canary + "/evil"}, file("f", "x")},
		"hard link":     {{Typeflag: tar.TypeLink, Name: "h", Linkname: canary + "/secret"}, file("h", "x")},
		"link over dir": {{Typeflag: tar.TypeDir, Name: "d"}, {Typeflag: tar.TypeSymlink, Name: "d", Linkname: canary}, file("d/evil", "x")},
	}
}

func TestBuildHostileArchive(t *testing.T) {
	for name := range breakouts("/x") {
		t.Run("ADD "+name, func(t *testing.T) {
			b := onBuilds(t)
			canary := b.canary()
			b.must(os.WriteFile(filepath.Join(b.dir, "a.tar"), archive(t, breakouts(canary)[name]...), 0o644))
			b.dockerfile("FROM BASE\nADD a.tar /x/")
			out, err := b.build()
			t.Logf("%v", err)
			if strings.Contains(out, "of the machine") {
				t.Error("the build shows a file of the machine")
			}
		})
		t.Run("context "+name, func(t *testing.T) {
			b := onBuilds(t)
			canary := b.canary()
			entries := append(breakouts(canary)[name], file("Dockerfile", "FROM "+shared.image+"\nCOPY . /x/\nRUN cat /x/* || true"))
			c := b.command("build", "--progress=plain", "-")
			c.Stdin = bytes.NewReader(archive(t, entries...))
			out, err := c.CombinedOutput()
			t.Logf("%v", err)
			if strings.Contains(string(out), "of the machine") {
				t.Errorf("the build shows a file of the machine:\n%s", out)
			}
		})
	}
}

// Links in the base image, made by an earlier step or sent with the context lead
// nowhere but into the image or the context.
func TestBuildHostileLinks(t *testing.T) {
	for name, c := range map[string]struct{ dockerfile, want string }{
		"COPY through a link":              {"RUN ln -s CANARY /l\nCOPY a /l/\nRUN cat CANARY/a", ""},
		"COPY to a link":                   {"RUN ln -s CANARY/evil /l\nCOPY a /l\nRUN cat CANARY/evil", "|"},
		"COPY --link through a link":       {"RUN ln -s CANARY /l\nCOPY --link a /l/", "|"},
		"ADD through a link":               {"RUN ln -s CANARY /l\nADD t.tar /l/\nRUN cat CANARY/t", ""},
		"WORKDIR through a link":           {"RUN ln -s CANARY /l\nWORKDIR /l/evil\nRUN test -d CANARY/evil", ""},
		"heredoc through a link":           {"RUN ln -s CANARY /l\nCOPY <<evil /l/\nx\nevil\nRUN cat CANARY/evil", ""},
		"COPY of a link to the machine":    {"COPY link /x", "link"},
		"COPY below a link to the machine": {"COPY dir/secret /x", "dir/secret"},
		"COPY --from a link":               {"RUN ln -s CANARY/secret /s\nFROM BASE\nCOPY --from=0 /s /x", "/s"},
		"bind of a link to the machine":    {"RUN --mount=source=dir,target=/m cat /m/secret", "no such file"},
		"bind of a link in a stage":        {"RUN true\nFROM BASE AS one\nRUN ln -s CANARY /s\nFROM BASE\nRUN --mount=from=one,source=/s,target=/m cat /m/secret", "no such file"},
		"a device made by a step":          {"RUN mknod /dev0 c 1 5 && rm -f /dev0; true\nCOPY <<dev0 /\nx\ndev0", ""},
		"accounts that are links":          {"RUN rm -f /etc/passwd && ln -s CANARY/secret /etc/passwd\nCOPY --chown=of a /", "user \"of\""},
		// CVE-2024-21626: a working directory that is an open file of the runtime.
		"WORKDIR of the runtime": {"WORKDIR /proc/self/fd/8\nRUN cat ../../../../../../../..CANARY/secret", "|"},
		// CVE-2024-23652: what a mount has left is not removed through a link.
		"mount point becomes a link": {"RUN --mount=type=tmpfs,target=/m/n true\nRUN ln -s CANARY /m2\nRUN --mount=type=tmpfs,target=/m2/secret true", "|"},
	} {
		t.Run(name, func(t *testing.T) {
			b := onBuilds(t)
			canary := b.canary()
			b.write(map[string]string{"a": "of the context", "link": "-> " + canary + "/secret", "dir": "-> " + canary})
			b.must(os.WriteFile(filepath.Join(b.dir, "t.tar"), archive(t, file("t", "x")), 0o644))
			b.dockerfile(strings.ReplaceAll("FROM BASE\n"+c.dockerfile, "CANARY", canary))
			out, err := b.build()
			if strings.Contains(out, "of the machine") {
				t.Errorf("the build shows a file of the machine:\n%s", out)
			}
			switch {
			case c.want == "|": // either way
			case c.want == "" && err != nil:
				t.Errorf("build: %v\n%s", err, out)
			case c.want != "" && (err == nil || !strings.Contains(out, c.want)):
				t.Errorf("the build said %v, want a failure with %q:\n%s", err, c.want, out)
			}
			if text, err := os.ReadFile(filepath.Join(canary, "secret")); err != nil || string(text) != "of the machine" {
				t.Errorf("the file of the machine is %q, %v", text, err)
			}
		})
	}
}

// A step is as confined as a container.
func TestBuildConfinement(t *testing.T) {
	b := onBuilds(t)
	b.dockerfile(`FROM BASE AS a
RUN mkdir /out && grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status > /out/status
RUN (cat /proc/kcore 2>&1; echo 1 > /proc/sys/kernel/panic; mount -t tmpfs x /mnt; mknod /out/d b 8 0 && cat /out/d; unshare -U true) > /out/tries 2>&1; rm -f /out/d; true
RUN cat /proc/self/cgroup > /out/cgroup; hostname > /out/host; ls /proc | grep -c '^[0-9]' > /out/processes
FROM scratch
COPY --from=a /out /out`)
	got := b.files("out")
	contains(b.env, "status", got["status"], "Seccomp:\t2")
	if strings.Contains(got["status"], "CapEff:\t000001ffffffffff") {
		t.Errorf("a step has all capabilities: %s", got["status"])
	}
	contains(b.env, "refusals", got["tries"], "ermitted")
	equal(b.env, "name of the host", got["host"], "buildkitsandbox\n")
	if n := strings.TrimSpace(got["processes"]); len(n) > 1 {
		t.Errorf("a step sees %s processes", n)
	}
}

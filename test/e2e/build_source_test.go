package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// serve serves files over HTTP for a test.
func serve(t *testing.T, files map[string][]byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestBuildAdd(t *testing.T) {
	plain := archive(t, tar.Header{Typeflag: tar.TypeDir, Name: "d"}, file("d/f", "in the archive"))
	packed := zipped(t, plain)
	sum := sha256.Sum256([]byte("remote"))
	url := serve(t, map[string][]byte{"/f.txt": []byte("remote"), "/a.tgz": packed})
	for name, c := range map[string]struct {
		dockerfile string
		want       map[string]string
	}{
		"a tar":                    {"ADD a.tar /out/", map[string]string{"d/": "", "d/f": "in the archive"}},
		"a compressed tar":         {"ADD a.tgz /out/", map[string]string{"d/": "", "d/f": "in the archive"}},
		"COPY unpacks nothing":     {"COPY a.tgz /out/", map[string]string{"a.tgz": string(packed)}},
		"a URL":                    {"ADD " + url + "/f.txt /out/", map[string]string{"f.txt": "remote"}},
		"a URL with a name":        {"ADD " + url + "/f.txt /out/g", map[string]string{"g": "remote"}},
		"a URL with its checksum":  {"ADD --checksum=sha256:" + hex.EncodeToString(sum[:]) + " " + url + "/f.txt /out/", map[string]string{"f.txt": "remote"}},
		"a URL is not unpacked":    {"ADD " + url + "/a.tgz /out/", map[string]string{"a.tgz": string(packed)}},
		"what is no archive":       {"ADD f /out/", map[string]string{"f": "text"}},
		"a name with a wildcard":   {"ADD a.t?? /out/", map[string]string{"d/": "", "d/f": "in the archive"}},
		"a URL with --chmod":       {"ADD --chmod=755 " + url + "/f.txt /out/", map[string]string{"f.txt": "remote"}},
		"an archive over a folder": {"COPY sub /out\nADD a.tar /out/", map[string]string{"d/": "", "d/f": "in the archive", "d/old": "old"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onBuilds(t)
			b.write(map[string]string{"a.tar": string(plain), "a.tgz": string(packed), "f": "text", "sub/d/old": "old", "sub/d/f": "replaced"})
			b.dockerfile("FROM scratch\n" + c.dockerfile)
			if diff := cmp.Diff(c.want, b.files("out")); diff != "" {
				t.Errorf("files of the result, want (-) and got (+):\n%s", diff)
			}
		})
	}
}

// Contexts that are no directory.
func TestBuildContexts(t *testing.T) {
	b := onBuilds(t)
	dockerfile := "FROM scratch\nCOPY f /out/"
	context := archive(t, file("Dockerfile", dockerfile), file("f", "1"), file("other/Dockerfile", "FROM scratch\nCOPY f /out/g"))
	url := serve(t, map[string][]byte{"/c.tar.gz": zipped(t, context), "/Dockerfile": []byte("FROM scratch\nCOPY <<f /out/\n2\nf")})
	for name, c := range map[string]struct {
		stdin []byte
		args  []string
		want  map[string]string
	}{
		"a tar on stdin":              {context, []string{"-"}, map[string]string{"f": "1"}},
		"a compressed tar on stdin":   {zipped(t, context), []string{"-"}, map[string]string{"f": "1"}},
		"--file in a tar":             {context, []string{"-f", "other/Dockerfile", "-"}, map[string]string{"g": "1"}},
		"a Dockerfile on stdin":       {[]byte("FROM scratch\nCOPY <<f /out/\n3\nf"), []string{"-"}, map[string]string{"f": "3\n"}},
		"the Dockerfile alone, stdin": {[]byte("FROM scratch\nCOPY x /out/"), []string{"-f", "-", b.dir}, map[string]string{"x": "x"}},
		"URL of a tar":                {nil, []string{url + "/c.tar.gz"}, map[string]string{"f": "1"}},
		"URL of a Dockerfile":         {nil, []string{url + "/Dockerfile"}, map[string]string{"f": "2\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &builds{env: b.in(t), dir: b.dir}
			b.write(map[string]string{"x": "x"})
			to := b.temp()
			cmd := b.command(append([]string{"build", "--progress=plain", "-o", to}, c.args...)...)
			cmd.Stdin = bytes.NewReader(c.stdin)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
			for name, text := range c.want {
				if got, err := os.ReadFile(filepath.Join(to, "out", name)); err != nil || string(got) != text {
					t.Errorf("%s is %q, %v, want %q", name, got, err, text)
				}
			}
		})
	}
}

func TestBuildGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		lacking(t, "git", "git is not on this machine")
	}
	b := onBuilds(t)
	repo := b.temp()
	b.must(os.WriteFile(filepath.Join(repo, "f"), []byte("1"), 0o644))
	b.must(os.WriteFile(filepath.Join(repo, "Dockerfile"), []byte("FROM scratch\nCOPY . /out/"), 0o644))
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=e", "-c", "user.email=e@e.test", "commit", "-qm", "one"},
	} {
		c := exec.Command("git", append([]string{"-C", repo}, args...)...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	// A server that has git's own protocol, without which nobody gives one commit.
	s := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(b.gitPrograms(), "git-http-backend"), Root: "/r.git",
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(repo, ".git"), "GIT_HTTP_EXPORT_ALL=1", "HOME=" + repo, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	})
	t.Cleanup(s.Close)
	to := b.temp()
	if out, err := b.command("build", "--progress=plain", "-o", to, s.URL+"/r.git").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(to, "out", "f")); err != nil || string(got) != "1" {
		t.Errorf("f is %q, %v", got, err)
	}
}

// gitPrograms is where git keeps its other programs.
func (b *builds) gitPrograms() string {
	b.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	b.must(err)
	return strings.TrimSpace(string(out))
}

// A step talks to the client's SSH agent, and to nothing else of the client's.
func TestBuildAgent(t *testing.T) {
	for _, program := range []string{"ssh-agent", "ssh-add", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			lacking(t, "ssh", program+" is not on this machine")
		}
	}
	b := onBuilds(t)
	dir := b.temp()
	socket := filepath.Join(dir, "agent")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	b.must(agent.Start())
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	b.eventually(settleLimit, func() error { _, err := os.Stat(socket); return err })
	key := filepath.Join(dir, "key")
	for _, args := range [][]string{{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f", key}, {"ssh-add", "-q", key}} {
		c := exec.Command(args[0], args[1:]...)
		c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	// The protocol: a length and a request for the identities.
	b.dockerfile("FROM BASE AS a\nRUN --mount=type=ssh,mode=0600 mkdir /out && probe dial $SSH_AUTH_SOCK 000000010b > /out/f\nFROM scratch\nCOPY --from=a /out /out")
	got := b.files("out", "--ssh", "default="+socket)
	if !strings.Contains(got["f"], "of-the-test") {
		t.Errorf("the agent said %q", got["f"])
	}
}

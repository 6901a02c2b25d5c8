package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ofImage is a container of another image than the shared one.
func ofImage(ref string) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: ref} }
}

// published pushes an image and checks that skopeo gets the same.
func (b *builds) published(ref string) {
	b.Helper()
	out, err := b.command("push", ref).CombinedOutput()
	if err != nil {
		b.Fatalf("push: %v\n%s", err, out)
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		lacking(b.T, "skopeo", "skopeo is not on this machine")
	}
	digest, err := exec.CommandContext(b.Context(), "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", "docker://"+ref).CombinedOutput()
	if err != nil {
		b.Fatalf("skopeo inspect: %v\n%s", err, digest)
	}
	if d := strings.TrimSpace(string(digest)); !strings.Contains(string(out), d) {
		b.Errorf("skopeo finds %s, push said:\n%s", d, out)
	}
	to := b.temp()
	if out, err := exec.CommandContext(b.Context(), "skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+to+":x").CombinedOutput(); err != nil {
		b.Errorf("skopeo copy: %v\n%s", err, out)
	}
}

// toolchain copies what builds Go programs.
func (b *builds) toolchain() string {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		lacking(b.T, "go", "go is not on this machine")
	}
	from, to := strings.TrimSpace(string(out)), b.temp()
	tools := "pkg/tool/linux_" + runtime.GOARCH
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		wanted := name == "bin/go" || name == "go.env" || name == "VERSION" || strings.HasPrefix(name, tools+"/") ||
			strings.HasPrefix(name, "pkg/include/") || strings.HasPrefix(name, "src/") && !strings.HasSuffix(name, "_test.go")
		if d.IsDir() {
			if d.Name() == "testdata" || name == "src/cmd" || name == "test" || name == "doc" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		if !wanted || d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		return os.Link(path, filepath.Join(to, name))
	})
	if err != nil {
		b.Skipf("copy the toolchain: %v", err)
	}
	return to
}

// A Go program is built in one stage and is alone in the other.
func TestBuildGoProgram(t *testing.T) {
	b := onBuilds(t)
	b.write(map[string]string{
		"go.mod":  "module e2e.test/hello\n\ngo 1.24\n",
		"main.go": "package main\n\nimport \"os\"\n\nvar version string\n\nfunc main() { os.Stdout.WriteString(\"hello from \" + version + \"\\n\") }\n",
	})
	b.dockerfile(`FROM BASE AS build
ARG VERSION
WORKDIR /src
COPY go.mod main.go ./
ENV CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
RUN --network=none --mount=from=go,target=/usr/local/go --mount=type=cache,id=e2e-go,target=/root/.cache \
    /usr/local/go/bin/go build -ldflags "-X main.version=$VERSION" -o /hello .
FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT ["/hello"]`)
	ref := shared.registry.Ref("e2e/hello:1")
	b.built("-t", ref, "--build-arg", "VERSION=1.2.3", "--build-context", "go="+b.toolchain())
	p := b.runPod("")
	r := b.runs(p, "hello", nil, ofImage(ref))
	equal(b.env, "output", r.stdout, "hello from 1.2.3\n")
	b.published(ref)
	b.forgetAfter(p, ref)
}

// forgetAfter removes a pod and the image it ran.
func (b *builds) forgetAfter(p *pod, ref string) {
	b.Helper()
	b.removePod(p)
	b.forget(ref)
	b.prune()
}

// nginx puts Debian's nginx, and the libraries it needs, below a directory.
func (b *builds) nginx(to string) {
	b.Helper()
	dir := b.temp()
	c := exec.CommandContext(b.Context(), "apt-get", "download", "-q", "nginx")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		lacking(b.T, "nginx", fmt.Sprintf("there is no nginx to be had: %v\n%s", err, out))
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	b.must(err)
	for _, p := range packages {
		if out, err := exec.CommandContext(b.Context(), "dpkg-deb", "-x", p, to).CombinedOutput(); err != nil {
			b.Fatalf("dpkg-deb: %v\n%s", err, out)
		}
	}
	out, err := exec.CommandContext(b.Context(), "ldd", filepath.Join(to, "usr/sbin/nginx")).Output()
	b.must(err)
	for word := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		data, err := os.ReadFile(word)
		b.must(err)
		at := filepath.Join(to, word)
		b.must(os.MkdirAll(filepath.Dir(at), 0o755))
		b.must(os.WriteFile(at, data, 0o755))
	}
}

// A site with nginx of Debian is built, runs, answers and is published.
func TestBuildNginxSite(t *testing.T) {
	b := onBuilds(t)
	b.nginx(filepath.Join(b.dir, "root"))
	b.write(map[string]string{
		"site/index.html": "<h1>built here</h1>\n",
		"nginx.conf":      "user root;\nerror_log stderr;\npid /run/nginx.pid;\nevents {}\nhttp { access_log off; server { listen 80; root /srv/www; } }\n",
	})
	b.dockerfile(`FROM BASE AS nginx
COPY root /
COPY nginx.conf /etc/nginx/nginx.conf
RUN mkdir -p /run /var/log/nginx /var/lib/nginx && nginx -t
FROM nginx
COPY --link site /srv/www
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]`)
	ref := shared.registry.Ref("e2e/site:1")
	b.built("-t", ref)
	p := b.runPod("")
	b.start(p, "site", nil, ofImage(ref))
	st, err := b.node.Runtime.PodSandboxStatus(t.Context(), p.id, false)
	b.must(err)
	b.eventually(20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+st.GetStatus().GetNetwork().GetIp()+"/", http.NoBody)
		b.must(err)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && !bytes.Contains(body, []byte("built here")) {
			err = fmt.Errorf("%s: %s", resp.Status, body)
		}
		return err
	})
	b.published(ref)
	b.forgetAfter(p, ref)
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cri-node/cri-node/test/e2e/node"
)

func TestBuildCache(t *testing.T) {
	b := onBuilds(t)
	b.prune()
	b.write(map[string]string{"a": "1", "b": "1"})
	b.dockerfile("FROM BASE AS one\nCOPY a /a\nRUN cp /a /x\nFROM BASE AS two\nCOPY --from=one /x /x\nRUN cp /x /y")
	cached := func(want int, why string, args ...string) {
		t.Helper()
		if out := b.built(args...); cachedSteps(out) != want {
			t.Errorf("%s: %d steps were cached, want %d:\n%s", why, cachedSteps(out), want, out)
		}
	}
	cached(0, "at first")
	cached(4, "again")
	b.must(os.Chtimes(filepath.Join(b.dir, "a"), time.Now(), time.Now().Add(-time.Hour)))
	cached(4, "another time of a file")
	b.write(map[string]string{"b": "2", "c": "new"})
	cached(4, "a change of what is not copied")
	b.write(map[string]string{"a": "2"})
	cached(0, "a change")
	b.write(map[string]string{"a": "1"})
	cached(4, "back")
	b.must(os.Chmod(filepath.Join(b.dir, "a"), 0o600))
	cached(0, "another mode")
	b.must(os.Chmod(filepath.Join(b.dir, "a"), 0o644))
	cached(0, "--no-cache", "--no-cache")
	// The first stage is built anew; what it gives to the second is the same.
	cached(2, "--no-cache-filter", "--no-cache-filter", "one")
	b.must(b.node.Stop(20 * time.Second))
	b.must(b.node.Restart(t.Context()))
	cached(4, "after a restart of the daemon")
	b.prune()
	cached(0, "after prune")
	b.prune()
}

// Builds of the same with SOURCE_DATE_EPOCH are the same to the byte.
func TestBuildReproducible(t *testing.T) {
	b := onBuilds(t)
	b.write(map[string]string{"d/a": "1", "d/b": "2"})
	b.dockerfile("FROM BASE\nCOPY d /d\nRUN mkdir /e && cp /d/* /e/ && ln /e/a /e/l && touch /now\nRUN rm /d/a")
	ids := map[string]bool{}
	for range 2 {
		b.must(os.Chtimes(filepath.Join(b.dir, "d/a"), time.Now(), time.Now()))
		file := filepath.Join(b.temp(), "id")
		b.built("--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "--iidfile", file, "-t", "e2e.test/same:1")
		id, err := os.ReadFile(file)
		b.must(err)
		ids[string(id)] = true
	}
	equal(b.env, "different images", len(ids), 1)
	b.forget("e2e.test/same:1")
	b.prune()
}

// A build the client of which goes, or the daemon of which dies, leaves nothing,
// and the next one goes on from what was done.
func TestBuildKilled(t *testing.T) {
	for name, end := range map[string]func(b *builds, client *exec.Cmd){
		"client":    func(_ *builds, client *exec.Cmd) { _ = client.Process.Kill() },
		"ctrl-c":    func(_ *builds, client *exec.Cmd) { _ = client.Process.Signal(os.Interrupt) },
		"daemon -9": func(b *builds, _ *exec.Cmd) { b.must(b.node.Kill()); b.must(b.node.Restart(b.Context())) },
		"daemon end": func(b *builds, _ *exec.Cmd) {
			b.must(b.node.Stop(20 * time.Second))
			b.must(b.node.Restart(b.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &builds{env: ownNode(t, node.Options{})}
			b.dir = b.temp()
			b.write(map[string]string{"slow": "1\n"})
			b.dockerfile("FROM BASE\nRUN echo first > /a\nRUN --mount=target=/ctx --mount=type=secret,id=s --mount=type=tmpfs,target=/t cat /ctx/slow; test \"$(cat /ctx/slow)\" = 0 || sleep 600")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out safeBuffer
			c := exec.CommandContext(ctx, shared.bin.Node, "build", "--progress=plain", "--secret", "id=s,src="+filepath.Join(b.dir, "slow"), b.dir)
			c.Env = append(os.Environ(), "CRI_NODE_ADDRESS="+b.node.Endpoint())
			c.Stdout, c.Stderr = &out, &out
			b.must(c.Start())
			b.eventually(30*time.Second, func() error {
				if !strings.Contains(out.String(), " 1\n") && !strings.HasSuffix(strings.TrimSpace(out.String()), " 1") {
					return errNotYet
				}
				return nil
			})
			end(b, c)
			_ = c.Wait()
			b.eventually(20*time.Second, func() error {
				where := b.node.InvariantConfig()
				for _, dir := range []string{filepath.Join(where.State, "build"), filepath.Join(where.Root, "build/tmp")} {
					if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
						return errNotYet
					}
				}
				return nil
			})
			b.check()
			b.write(map[string]string{"slow": "0\n"})
			if out := b.built("--secret", "id=s,src="+filepath.Join(b.dir, "slow")); cachedSteps(out) != 1 {
				t.Errorf("the first step was not cached:\n%s", out)
			}
			b.prune()
			b.removeBuilt()
		})
	}
}

// Independent stages are built at the same time.
func TestBuildParallel(t *testing.T) {
	b := onBuilds(t)
	wait := "RUN --mount=type=cache,target=/c,id=e2e-parallel touch /c/%s && for i in $(seq 300); do test -e /c/%s && break; sleep 0.1; done; test -e /c/%s && touch /%s\n"
	step := func(mine, other string) string {
		return strings.NewReplacer("touch /c/%s", "touch /c/"+mine, "-e /c/%s", "-e /c/"+other, "touch /%s", "touch /"+mine).Replace(wait)
	}
	b.dockerfile("FROM BASE AS one\n" + step("1", "2") + "FROM BASE AS two\n" + step("2", "1") + "FROM scratch\nCOPY --from=one /1 /out/\nCOPY --from=two /2 /out/")
	equal(b.env, "files", len(b.files("out")), 2)
	b.prune()
}

// Builds at the same time share the cache and do not harm one another.
func TestBuildConcurrent(t *testing.T) {
	b := onBuilds(t)
	b.write(map[string]string{"a": "1"})
	b.dockerfile("FROM BASE\nCOPY a /a\nRUN sleep 0.2; cat /a > /b\nRUN cat /b > /c")
	var running []*exec.Cmd
	var outputs []*bytes.Buffer
	for range 4 {
		c := b.command("build", "--progress=plain", b.dir)
		out := &bytes.Buffer{}
		c.Stdout, c.Stderr = out, out
		b.must(c.Start())
		running, outputs = append(running, c), append(outputs, out)
	}
	for i, c := range running {
		if err := c.Wait(); err != nil {
			t.Errorf("build: %v\n%s", err, outputs[i])
		}
	}
	b.removeBuilt()
	b.prune()
}

// A cache mount is a part of the cache that people see and prune.
func TestBuildCacheMountCounts(t *testing.T) {
	b := onBuilds(t)
	b.prune()
	usage := func() kindUsage {
		t.Helper()
		out, err := b.command("system", "df", "-o", "json").Output()
		b.must(err)
		var all []kindUsage
		b.must(json.Unmarshal(out, &all))
		return all[slices.IndexFunc(all, func(k kindUsage) bool { return k.Kind == "build-cache" })]
	}
	b.dockerfile("FROM BASE\nRUN --mount=type=cache,target=/c,id=e2e-counts dd if=/dev/zero of=/c/f bs=1048576 count=3 && echo 1 > /x")
	b.built()
	if k := usage(); k.Total < 2 || k.Size < 3<<20 || k.Reclaimable != k.Size {
		t.Errorf("the cache is %+v", k)
	}
	out, err := b.command("builder", "prune", "--all").CombinedOutput()
	b.must(err)
	contains(b.env, "what prune says", string(out), "reclaimed space: 3.")
	if k := usage(); k.Total != 0 || k.Size != 0 {
		t.Errorf("after a prune the cache is %+v", k)
	}
}

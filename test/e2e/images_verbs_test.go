package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cri-node/cri-node/test/e2e/registry"
)

func appendLayers(img v1.Image, layers ...v1.Layer) (v1.Image, error) {
	for _, l := range layers {
		mediaType, err := l.MediaType()
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mediaType}); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// TestImagesPush: a pulled, tagged and pushed image keeps its digest, wherever it
// goes.
func TestImagesPush(t *testing.T) {
	v := onImageVerbs(t)
	other := v.otherRegistry()
	digest := v.pushed(shared.registry, "verbs/push:1", v.app("push"))
	source := shared.registry.Ref("verbs/push:1")
	out := v.ok("pull", source)
	contains(v.env, "pull", out, "1: Pulling from verbs/push", "Pull complete", "Digest: "+digest, "Status: Downloaded newer image for "+source, "\n"+source+"\n")
	contains(v.env, "second pull", v.ok("pull", source), "Status: Image is up to date")
	equal(v.env, "quiet pull", v.ok("pull", "-q", source), source+"\n")
	id := v.inspect(source).ID
	v.forget(id)
	for _, target := range []string{shared.registry.Ref("verbs/copy:2"), other.Ref("elsewhere/app:3")} {
		v.ok("tag", source, target)
		out := v.ok("push", target)
		contains(v.env, "push", out, "The push refers to repository ["+target[:strings.LastIndex(target, ":")]+"]", "digest: "+digest)
		equal(v.env, "digest at "+target, v.digestIn(target), digest)
		contains(v.env, "second push", v.ok("push", target), "Layer already exists", "digest: "+digest)
		contains(v.env, "digests", strings.Join(v.inspect(target).RepoDigests, " "), target[:strings.LastIndex(target, ":")]+"@"+digest)
	}
	// All of it, as somebody else sees it.
	v.skopeo("copy", "-q", "--src-tls-verify=false", "docker://"+other.Ref("elsewhere/app:3"), "dir:"+v.path("copy"))
	v.fails([]string{"push", "verbs-of-nobody"}, `no image "verbs-of-nobody"`)
	v.fails([]string{"push", id}, "is no name of an image", "cri-node tag")
	contains(v.env, "all tags", v.ok("push", "-a", other.Ref("elsewhere/app")), "3: digest: "+digest)
}

// TestImagesPushGone: where the image came from it is no more.
func TestImagesPushGone(t *testing.T) {
	v := onImageVerbs(t)
	source, target := v.otherRegistry(), v.otherRegistry()
	digest := v.pushed(source, "gone:1", v.app("gone"))
	v.ok("pull", source.Ref("gone:1"))
	v.forget(v.inspect(source.Ref("gone:1")).ID)
	v.must(source.Close())
	v.ok("tag", source.Ref("gone:1"), target.Ref("gone:1"))
	v.fails([]string{"push", target.Ref("gone:1")}, "was not kept", "image.keep_compressed", "--recompress", source.Addr())
	out := v.ok("push", "--recompress", target.Ref("gone:1"))
	contains(v.env, "push", out, "another digest than it was pulled with")
	if got := v.digestIn(target.Ref("gone:1")); got == digest || !strings.Contains(out, got) {
		t.Errorf("digest is %s, pulled was %s: %s", got, digest, out)
	}
	// Save needs nobody.
	v.ok("save", "-o", v.path("gone.tar"), target.Ref("gone:1"))
	v.skopeo("inspect", "docker-archive:"+v.path("gone.tar"))
}

// TestImagesLogin: a registry that gives and takes with credentials only.
func TestImagesLogin(t *testing.T) {
	v := onImageVerbs(t)
	for name, auth := range map[string]registry.Auth{
		"basic":  {Username: "ada", Password: "secret-of-ada"},
		"bearer": {Username: "ada", Password: "secret-of-ada", Bearer: true, Token: "token-of-ada"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &imageVerbs{v.in(t), v.dir}
			r := v.otherRegistry()
			v.pushed(r, "private:1", v.app("private"))
			r.Require(auth)
			v.fails([]string{"pull", r.Ref("private:1")}, "cri-node login "+r.Addr())
			_, errs, code := v.try([]byte("wrong\n"), "login", "-u", "ada", "--password-stdin", r.Addr())
			if code == 0 || !strings.Contains(errs, "does not take this user name and password") {
				t.Errorf("login with a wrong password: %d %s", code, errs)
			}
			v.fails([]string{"login", r.Addr()}, "--password-stdin")
			out, errs, code := v.try([]byte("secret-of-ada\n"), "login", "-u", "ada", "--password-stdin", r.Addr())
			if code != 0 || !strings.Contains(out, "Login Succeeded") {
				t.Fatalf("login: %d %s", code, errs)
			}
			v.ok("pull", r.Ref("private:1"))
			v.forget(v.inspect(r.Ref("private:1")).ID)
			v.ok("tag", r.Ref("private:1"), r.Ref("private/copy:1"))
			v.ok("push", r.Ref("private/copy:1"))
			// A push elsewhere fetches with these credentials, and shows them to nobody else.
			public := v.otherRegistry()
			v.ok("tag", r.Ref("private:1"), public.Ref("public:1"))
			v.ok("push", public.Ref("public:1"))
			for _, q := range public.Requests() {
				if q.Authorization != "" {
					t.Errorf("credentials of another registry were sent with %s %s", q.Method, q.Path)
				}
			}
			contains(v.env, "logout", v.ok("logout", r.Addr()), "Removing login credentials for "+r.Addr())
			contains(v.env, "logout", v.ok("logout", r.Addr()), "Not logged in")
			v.fails([]string{"push", r.Ref("private/copy:1")}, "cri-node login")
			if strings.Contains(v.node.LogTail(2000), auth.Password) {
				t.Error("the log has the password")
			}
		})
	}
}

// TestImagesSaveLoad: archives for docker, skopeo and us, and theirs for us.
func TestImagesSaveLoad(t *testing.T) {
	v := onImageVerbs(t)
	v.pushed(shared.registry, "verbs/save:1", v.app("save"))
	ref := shared.registry.Ref("verbs/save:1")
	v.ok("pull", "-q", ref)
	before := v.inspect(ref)
	archives := map[string]string{"docker-archive": v.path("d.tar"), "oci-archive": v.path("o.tar")}
	for format, file := range archives {
		v.ok("save", "--format", format, "-o", file, ref)
		again := v.path("again")
		v.ok("save", "--format", format, "-o", again, ref)
		first, err := os.ReadFile(file)
		v.must(err)
		second, err := os.ReadFile(again)
		v.must(err)
		if !bytes.Equal(first, second) {
			t.Errorf("%s: two archives of one image differ", format)
		}
		name := format + ":" + file
		v.skopeo("inspect", name)
		v.skopeo("copy", "-q", name, "oci-archive:"+v.path("from-"+format+".tar"))
	}
	v.skopeo("copy", "-q", "docker-archive:"+archives["docker-archive"]+":"+ref, "docker-archive:"+v.path("theirs.tar")+":verbs-theirs:1")
	contains(v.env, "rmi", v.ok("rmi", ref), "Untagged: "+ref, "Deleted: "+before.ID)
	v.fails([]string{"inspect", "--type", "image", ref}, "no image")
	for _, file := range []string{archives["docker-archive"], archives["oci-archive"]} {
		contains(v.env, "load", v.ok("load", "-i", file), "Loaded image: "+ref)
		after := v.inspect(ref)
		if after.ID != before.ID || strings.Join(after.RootFS.Layers, " ") != strings.Join(before.RootFS.Layers, " ") || after.Config.Cmd[0] != "cat" {
			t.Errorf("loaded %+v, saved %+v", after, before)
		}
		equal(v.env, "what it runs", v.ok("run", "--rm", ref), "save")
		v.ok("rmi", ref)
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		out := v.ok("load", "-q", "-i", v.path("from-"+format+".tar"))
		_, id, found := strings.Cut(strings.TrimSpace(out), "Loaded image ID: ")
		if !found {
			t.Fatalf("load: %s", out)
		}
		v.ok("rmi", id)
	}
	contains(v.env, "load", v.ok("load", "-i", v.path("theirs.tar")), "Loaded image: verbs-theirs:1")
	equal(v.env, "layers", strings.Join(v.inspect("verbs-theirs:1").RootFS.Layers, " "), strings.Join(before.RootFS.Layers, " "))
	v.ok("rmi", "verbs-theirs:1")
	_, errs, code := v.try([]byte("nonsense"), "load")
	if code == 0 || !strings.Contains(errs, "image archive") {
		t.Errorf("load of nonsense: %d %s", code, errs)
	}
}

// Names of files and words of processes may be any bytes.
func TestVerbsBytesOfContainers(t *testing.T) {
	v := onImageVerbs(t)
	v.Cleanup(func() { v.try(nil, "rm", "-f", "-v", "verbs-bytes") })
	v.ok("run", "-d", "--name", "verbs-bytes", shared.image, "sh", "-c", `f=$(printf '/f\377'); echo 1 > "$f"; ln -s "$f" /link; touch /ready; exec sh -c 'sleep 600; true' "$f"`)
	v.eventually(10*time.Second, func() error {
		if _, _, code := v.try(nil, "exec", "verbs-bytes", "test", "-e", "/ready"); code != 0 {
			return errNotYet
		}
		return nil
	})
	contains(v.env, "diff", v.ok("diff", "verbs-bytes"), "A /f\uFFFD\n", "A /link\n")
	contains(v.env, "top", v.ok("top", "verbs-bytes"), "sleep 600")
	v.ok("cp", "verbs-bytes:/link", v.path("copied"))
	v.ok("cp", "-L", "verbs-bytes:/link", v.path("followed"))
}

// TestImagesCommit: diff, commit, export and import of what a container became.
func TestImagesCommit(t *testing.T) {
	v := onImageVerbs(t)
	v.Cleanup(func() { v.try(nil, "rm", "-f", "-v", "verbs-commit") })
	v.ok("run", "--name", "verbs-commit", "-e", "B=2", shared.image, "sh", "-c", "echo new > /etc/new; rm /etc/group; echo 1 >> /etc/passwd; mkdir -p /deep/er")
	equal(v.env, "diff", v.ok("diff", "verbs-commit"), "A /deep\nA /deep/er\nC /etc\nD /etc/group\nA /etc/new\nC /etc/passwd\n")
	id := strings.TrimSpace(v.ok("commit", "-a", "Ada", "-m", "as it was", "-c", `CMD ["cat", "/etc/new"]`, "-c", "ENV C=3", "verbs-commit", "verbs-made:1"))
	v.forget(id)
	d := v.inspect("verbs-made:1")
	equal(v.env, "id", d.ID, id)
	equal(v.env, "environment", strings.Join(d.Config.Env, " "), "B=2 C=3")
	equal(v.env, "what it runs", v.ok("run", "--rm", "verbs-made:1"), "new\n")
	equal(v.env, "what it lost", v.ok("run", "--rm", "verbs-made:1", "sh", "-c", "ls /etc/group || echo none; stat -c %a /deep/er"), "none\n755\n")
	contains(v.env, "history", v.ok("history", "--no-trunc", "verbs-made:1"), "echo new > /etc/new", "as it was", id)
	// What was made here is pushed with a digest that stays.
	r := v.otherRegistry()
	v.ok("tag", "verbs-made:1", r.Ref("made:1"))
	v.ok("push", r.Ref("made:1"))
	digest := v.digestIn(r.Ref("made:1"))
	second := v.otherRegistry()
	v.ok("tag", "verbs-made:1", second.Ref("made:1"))
	contains(v.env, "push", v.ok("push", second.Ref("made:1")), digest)
	equal(v.env, "digest elsewhere", v.digestIn(second.Ref("made:1")), digest)

	v.ok("export", "-o", v.path("export.tar"), "verbs-commit")
	out := v.ok("import", "-c", `CMD ["cat", "/etc/new"]`, v.path("export.tar"), "verbs-flat:1")
	v.forget(strings.TrimSpace(out))
	equal(v.env, "layers", len(v.inspect("verbs-flat:1").RootFS.Layers), 1)
	equal(v.env, "what it runs", v.ok("run", "--rm", "verbs-flat:1"), "new\n")
	equal(v.env, "what it lost", v.ok("run", "--rm", "verbs-flat:1", "sh", "-c", "ls /etc/group || echo none; stat -c %a /tmp"), "none\n1777\n")
	v.fails([]string{"commit", "-c", "RUN x", "verbs-commit"}, "RUN", "CMD, ENTRYPOINT")
	v.fails([]string{"commit", "no-such-container"}, "no container")
}

// TestImagesRemove: names come and go, and containers keep their images.
func TestImagesRemove(t *testing.T) {
	v := onImageVerbs(t)
	v.pushed(shared.registry, "verbs/remove:1", v.app("remove"))
	ref := shared.registry.Ref("verbs/remove:1")
	v.ok("pull", "-q", ref)
	id := v.inspect(ref).ID
	v.ok("tag", ref, "verbs-a:1")
	v.ok("tag", id, "verbs-b")
	contains(v.env, "images", v.ok("images", "verbs-b"), "verbs-b", "latest")
	equal(v.env, "template", v.ok("images", "--format", "{{.Repository}}:{{.Tag}}", "verbs-a"), "verbs-a:1\n")
	contains(v.env, "json", v.ok("images", "-o", "json", "verbs-a"), `"id": "`+id+`"`)
	equal(v.env, "label filter", v.ok("images", "-q", "--no-trunc", "--filter", "label=app=remove"), id+"\n")
	v.fails([]string{"rmi", id}, "several repositories", "verbs-a", "--force")
	equal(v.env, "rmi", v.ok("rmi", "verbs-a:1"), "Untagged: verbs-a:1\n")
	v.Cleanup(func() { v.try(nil, "rm", "-f", "verbs-user") })
	v.ok("create", "--name", "verbs-user", ref)
	v.ok("rmi", "verbs-b")
	v.fails([]string{"rmi", ref}, "is used by container verbs-user", "--force")
	out := v.ok("rmi", "-f", ref)
	contains(v.env, "forced", out, "Untagged: "+ref)
	if strings.Contains(out, "Deleted") {
		t.Errorf("an image in use was deleted: %s", out)
	}
	contains(v.env, "dangling", v.ok("images", "--no-trunc", "-q", "--filter", "dangling=true"), id)
	equal(v.env, "start", v.ok("start", "-a", "verbs-user"), "remove")
	v.ok("rm", "verbs-user")
	contains(v.env, "at last", v.ok("rmi", id), "Deleted: "+id)
	v.fails([]string{"rmi", "verbs-a:1"}, "no image")
	equal(v.env, "forced, none", v.ok("rmi", "-f", "verbs-a:1"), "")
	// A name that goes to another image leaves the first without one.
	v.ok("tag", shared.image, "verbs-moves")
	v.ok("rmi", "verbs-moves")
}

// TestImagesSearch goes through a registry's catalogue.
func TestImagesSearch(t *testing.T) {
	v := onImageVerbs(t)
	r := v.otherRegistry()
	v.pushed(r, "team/web:1", v.app("web"))
	v.pushed(r, "team/db:1", v.app("db"))
	out := v.ok("search", r.Addr()+"/web")
	contains(v.env, "search", out, "NAME", r.Addr()+"/team/web")
	if strings.Contains(out, "team/db") {
		t.Errorf("found %s", out)
	}
	equal(v.env, "all", v.ok("search", "--format", "{{.Name}}", r.Addr()+"/"), r.Addr()+"/team/db\n"+r.Addr()+"/team/web\n")
	out = v.ok("pull", "-a", r.Addr()+"/team/web")
	contains(v.env, "pull of all", out, r.Ref("team/web:1"))
	v.forget(v.inspect(r.Ref("team/web:1")).ID)
}

// TestImagesKilled: a load and a push whose client dies leave nothing; the leak
// check looks at what the store has left over.
func TestImagesKilled(t *testing.T) {
	v := onImageVerbs(t)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	v.ok("save", "-o", v.path("a.tar"), shared.image)
	archive, err := os.ReadFile(v.path("a.tar"))
	v.must(err)
	load := v.command(ctx, "load")
	in, err := load.StdinPipe()
	v.must(err)
	v.must(load.Start())
	_, err = in.Write(archive[:len(archive)/2])
	v.must(err)
	kill()
	_ = load.Wait() // was killed

	asked := make(chan struct{})
	tell := sync.OnceFunc(func() { close(asked) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "/upload")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			tell()
			_, _ = io.Copy(io.Discard, r.Body) // the server sees who leaves only when all is read
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	ctx, kill = context.WithCancel(t.Context())
	defer kill()
	target := strings.TrimPrefix(server.URL, "http://") + "/x:1"
	v.ok("tag", shared.image, target)
	v.Cleanup(func() { v.try(nil, "rmi", target) })
	push := v.command(ctx, "push", target)
	v.must(push.Start())
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Error("nothing was sent")
	}
	kill()
	_ = push.Wait() // was killed
	v.logSays(0, `"Call failed" method="Push"`)
}

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
)

// shopPod has one of everything that `play kube` knows; HOSTPATH and PORT are
// filled in.
const shopPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {index.html: "welcome\n", level: debug}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: shop}, ports: [{port: 8080}]}
---
# nothing in it
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec:
  terminationGracePeriodSeconds: 1
  hostAliases: [{ip: 10.9.8.7, hostnames: [bank]}]
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, "echo from-first > /scratch/note; id -u > /scratch/who"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: second
    image: IMAGE
    command: [sh, -c, "cat /scratch/note > /scratch/copy"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: web
    image: IMAGE
    command: [httpd, -f, -p, "8080", -h, /www]
    ports: [{containerPort: 8080, hostPort: PORT}]
    env:
    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: site, key: level}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
    resources: {requests: {memory: 16Mi, cpu: 100m}, limits: {memory: 64Mi, cpu: 500m}}
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    livenessProbe: {exec: {command: [test, -e, /www/index.html]}, periodSeconds: 1}
    readinessProbe: {tcpSocket: {port: 8080}}
    volumeMounts:
    - {name: www, mountPath: /www}
    - {name: secrets, mountPath: /etc/login}
    - {name: scratch, mountPath: /scratch}
    - {name: outside, mountPath: /outside, readOnly: true}
    - {name: www, mountPath: /bin/level.txt, subPath: level}
  - name: helper
    image: IMAGE
    command: [sh, -c, "trap '' TERM; echo $(GREETING) > /scratch/greeting; while :; do sleep 1; done"]
    env: [{name: GREETING, value: hello}]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes:
  - {name: www, configMap: {name: site}}
  - {name: secrets, secret: {secretName: login, defaultMode: 0400}}
  - {name: scratch, emptyDir: {}}
  - {name: outside, hostPath: {path: HOSTPATH, type: Directory}}
`

// onKube is a person with manifests, whose node is empty at the end.
func onKube(t *testing.T) *verbs {
	v := onVerbs(t)
	v.Cleanup(func() {
		if left := v.run("ps", "-aq", "--filter", "kubernetes=false").out + v.run("volume", "ls", "-q").out; left != "" {
			v.Errorf("the test leaves %s", left)
		}
	})
	return v
}

func (v *verbs) manifest(text string, pairs ...string) string {
	return strings.NewReplacer(append(pairs, "IMAGE", shared.image)...).Replace(text)
}

// played plays a manifest from standard input.
func (v *verbs) played(manifest string, flags ...string) string {
	v.Helper()
	got := v.pipe(manifest, append(append([]string{"play", "kube"}, flags...), "-")...)
	if got.code != 0 {
		v.Fatalf("play kube: exit code %d\n%s%s", got.code, got.out, got.err)
	}
	return got.out + got.err
}

// TestKubePod plays a pod that has one of everything.
func TestKubePod(t *testing.T) {
	v := onKube(t)
	outside, port := t.TempDir(), freePort(t)
	v.must(os.WriteFile(filepath.Join(outside, "file"), []byte("outside\n"), 0o600))
	v.must(os.Chmod(filepath.Join(outside, "file"), 0o644))
	v.must(os.Chmod(outside, 0o755))
	manifest := v.manifest(shopPod, "HOSTPATH", outside, "PORT", fmt.Sprint(port))
	said := v.played(manifest)
	contains(v.env, "play", said, "pod shop\n", "shop-web", "container web: readiness and startup probes are kubelet's")
	for want, command := range map[string]string{
		"from-first\n":                "cat /scratch/copy",
		"1000\n":                      "cat /scratch/who",
		"welcome\n":                   "cat /www/index.html",
		"debug\n":                     "cat /bin/level.txt; echo",
		"hunter2":                     "cat /etc/login/password",
		"-r--r-----\n":                "ls -lL /etc/login/password | cut -c1-10",
		"outside\n":                   "cat /outside/file",
		"1000:1000\n":                 "echo $(id -u):$(id -g)",
		"1000 2000 50000\n":           "id -G",
		"debug hunter2\n":             "echo $LEVEL $PASSWORD",
		"shop\n":                      "hostname",
		"read-only\n":                 "touch /x 2>/dev/null || echo read-only",
		"10.9.8.7\n":                  "grep bank /etc/hosts | cut -f1",
		"CapEff:\t0000000000000000\n": "grep CapEff /proc/self/status",
		"NoNewPrivs:\t1\n":            "grep NoNewPrivs /proc/self/status",
	} {
		if got := v.run("exec", "shop-web", "sh", "-c", command); got.out != want {
			t.Errorf("%s: %q, want %q %s", command, got.out, want, got.err)
		}
	}
	equal(v.env, "limits", v.ok("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", "shop-web"), "67108864 500000000")
	v.eventually("hello", "exec", "shop-web", "cat", "/scratch/greeting")
	v.eventually("healthy", "inspect", "-f", "{{.State.Health.Status}}", "shop-web")
	equal(v.env, "init containers", v.ok("ps", "-a", "--filter", "name=shop-first", "--format", "{{.State}}"), "exited")
	v.waitFor("the published port", func() bool {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return string(body) == "welcome\n"
	})
	// Names of pods and of Services.
	v.played(v.manifest("apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec: {containers: [{name: c, image: IMAGE, command: [sleep, '1000']}]}"))
	for _, name := range []string{"shop", "front"} {
		equal(v.env, name, v.run("exec", "client-c", "wget", "-qO-", "http://"+name+":8080/index.html").out, "welcome\n")
	}
	v.ok("rm", "-f", "client-c")

	got := v.pipe(manifest, "play", "kube", "-")
	if got.code == 0 || !strings.Contains(got.err, "pod shop is here already") || !strings.Contains(got.err, "--replace") {
		t.Errorf("twice: %d %s", got.code, got.err)
	}
	before := v.ok("inspect", "-f", "{{.Id}}", "shop-web")
	v.played(manifest, "--replace")
	if after := v.ok("inspect", "-f", "{{.Id}}", "shop-web"); after == before {
		t.Error("--replace keeps the container")
	}
	begin := time.Now()
	contains(v.env, "down", v.played(manifest, "--down"), "pod shop removed")
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("--down takes %v, where all containers have 1 s", took)
	}
	equal(v.env, "down again", v.played(manifest, "--down"), "")
}

// TestKubeDown: containers that do not listen are stopped at the same time.
func TestKubeDown(t *testing.T) {
	v := onKube(t)
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: deaf}\nspec:\n  terminationGracePeriodSeconds: 3\n  containers:\n")
	for i := range 4 {
		fmt.Fprintf(&text, "  - {name: c%d, image: IMAGE, command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]}\n", i)
	}
	manifest := v.manifest(text.String())
	v.played(manifest)
	begin := time.Now()
	v.played(manifest, "--down")
	if took := time.Since(begin); took < 3*time.Second || took > 9*time.Second {
		t.Errorf("it takes %v, where each has 3 s", took)
	}
}

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: IMAGE, command: [sleep, '1000']}]
`

// TestKubeDeployment: replicas come, and go with those that are wanted no more.
func TestKubeDeployment(t *testing.T) {
	v := onKube(t)
	list := func() string {
		return strings.Join(strings.Fields(v.ok("ps", "--filter", "label=app=web", "--format", "{{.Names}}")), " ")
	}
	v.played(v.manifest(webDeployment, "REPLICAS", "3"))
	for _, want := range []string{"web-0-c", "web-1-c", "web-2-c"} {
		contains(v.env, "replicas", list(), want)
	}
	v.played(v.manifest(webDeployment, "REPLICAS", "1"), "--replace")
	equal(v.env, "replicas", list(), "web-0-c")
	v.played(v.manifest(webDeployment, "REPLICAS", "0"), "--replace")
	equal(v.env, "replicas", list(), "")
	v.played(v.manifest(webDeployment, "REPLICAS", "2"))
	v.played(v.manifest(webDeployment, "REPLICAS", "0"), "--down")
	equal(v.env, "replicas", list(), "")
}

// TestKubeRefused: what cannot be played says why, and leaves nothing.
func TestKubeRefused(t *testing.T) {
	v := onKube(t)
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: "
	good := "{containers: [{name: a, image: IMAGE, command: [sleep, '1000']}]}\n"
	for name, test := range map[string]struct{ text, want string }{
		"unknown field":   {pod + "{containers: [{name: a, image: IMAGE, comand: [b]}]}", "comand"},
		"not yaml":        {pod + "{", "document 1"},
		"bad command":     {pod + "{containers: [{name: a, image: IMAGE, command: [no-such-program]}]}", "no-such-program"},
		"no image":        {pod + "{containers: [{name: a, image: '127.0.0.1:1/no/such:1'}]}", "container a"},
		"never pulled":    {pod + "{containers: [{name: a, image: '127.0.0.1:1/no/such:1', imagePullPolicy: Never}]}", "imagePullPolicy"},
		"init fails":      {pod + "{initContainers: [{name: i, image: IMAGE, command: ['false']}], containers: [{name: a, image: IMAGE}]}", "init container i: it exited with code 1"},
		"handler":         {pod + "{runtimeClassName: none, containers: [{name: a, image: IMAGE}]}", "none"},
		"second document": {pod + good + "---\n" + strings.Replace(pod, "{name: p}", "{name: q}", 1) + "{containers: [{name: a, image: IMAGE, command: [no-such-program]}]}", "pod q"},
		"host path":       {pod + "{volumes: [{name: v, hostPath: {path: /no/such}}], containers: [{name: a, image: IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]}", "/no/such"},
		"volume subpath":  {pod + "{volumes: [{name: v, emptyDir: {}}], containers: [{name: a, image: IMAGE, volumeMounts: [{name: v, mountPath: /v, subPath: x}]}]}", "subPath"},
	} {
		got := v.pipe(v.manifest(test.text), "play", "kube", "-")
		if got.code == 0 || !strings.Contains(got.err, test.want) {
			t.Errorf("%s: exit code %d, %q does not say %q", name, got.code, got.err, test.want)
		}
		if left := v.run("ps", "-aq", "--filter", "kubernetes=false").out + v.run("volume", "ls", "-q").out; left != "" {
			t.Fatalf("%s: it leaves %s", name, left)
		}
	}
}

// strictly reads documents as kubectl --validate=strict does.
func strictly(t *testing.T, text string) (kinds []string) {
	t.Helper()
	scheme := k8sruntime.NewScheme()
	for _, add := range []func(*k8sruntime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for document := range strings.SplitSeq(text, "---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		_, kind, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		kinds = append(kinds, kind.Kind)
	}
	return kinds
}

// TestKubeGenerate: what `run` has made comes back from a manifest of it.
func TestKubeGenerate(t *testing.T) {
	v := onKube(t)
	port, bound := fmt.Sprint(freePort(t)), t.TempDir()
	v.ok("run", "-d", "--name", "my_web", "-e", "GREETING=say $(HELLO)", "-p", port+":8080", "-v", "data:/data", "-v", bound+":/bound:ro", "--tmpfs", "/t",
		"-m", "64m", "--cpus", "0.5", "-u", "5:6", "--cap-drop", "NET_RAW", "--read-only", "--restart", "on-failure", "-w", "/data", "--stop-timeout", "1",
		"--health-cmd", "true", "--health-interval", "2s", "-h", "box", "--add-host", "bank:10.9.8.7",
		"IMAGE", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done")
	text := v.ok("generate", "kube", "my_web") + "\n"
	kinds := strings.Join(strictly(t, text), " ")
	equal(v.env, "kinds", kinds, "PersistentVolumeClaim Pod")
	view := func(container string) string {
		return v.ok("inspect", "-f", "{{.Config.Cmd}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.Hostname}} {{.Config.StopTimeout}} {{.Config.Healthcheck.Interval}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} "+
			"{{.HostConfig.CapDrop}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.RestartPolicy.Name}} {{json .HostConfig.PortBindings}} {{.HostConfig.ExtraHosts}}", container) +
			v.ok("exec", container, "sh", "-c", "echo $GREETING; ls -d /data /bound /t; pwd; id -u; id -g; touch /bound/x; touch /t/x")
	}
	before := view("my_web")
	v.ok("rm", "-f", "my_web")
	v.played(text)
	equal(v.env, "view", view("my-web-my-web"), before)
	again := v.ok("generate", "kube", "my-web-my-web") + "\n"
	equal(v.env, "the second manifest", again, text)
	service := v.ok("generate", "kube", "--type", "deployment", "--service", "my-web-my-web") + "\n"
	equal(v.env, "kinds", strings.Join(strictly(t, service), " "), "PersistentVolumeClaim Deployment Service")
	v.played(text, "--down")
	v.ok("volume", "rm", "data")
}

const kubeProject = `
name: shop
services:
  web:
    image: IMAGE
    command: sh -c "until wget -qO- http://db:9000/ ; do sleep 0.2; done; exec httpd -f -p 8080 -h /www"
    ports: ["PORT:8080"]
    volumes: ["pages:/www"]
    depends_on: [db]
  db:
    image: IMAGE
    command: sh -c "mkdir /d; echo stored > /d/index.html; exec httpd -f -p 9000 -h /d"
    expose: [9000]
volumes:
  pages:
`

// TestKubeFromCompose: one command leads from a Compose project to Kubernetes.
func TestKubeFromCompose(t *testing.T) {
	v := onKube(t)
	port := fmt.Sprint(freePort(t))
	file := filepath.Join(t.TempDir(), "compose.yaml")
	v.must(os.WriteFile(file, []byte(v.manifest(kubeProject, "PORT", port)), 0o600))
	v.ok("compose", "-f", file, "up", "-d")
	text := v.ok("generate", "kube", "--project", "shop") + "\n"
	v.ok("compose", "-f", file, "down", "-v")
	kinds := strings.Join(strictly(t, text), " ")
	equal(v.env, "kinds", kinds, "Deployment Service PersistentVolumeClaim Deployment Service")
	v.played(text)
	v.eventually("stored", "logs", "web-0-web")
	v.played(text, "--down")
	for _, name := range strings.Fields(v.ok("volume", "ls", "-q")) {
		v.ok("volume", "rm", name)
	}
}

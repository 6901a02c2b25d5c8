package kube

import (
	"os"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/containers"
)

// A machine whose every port is free.
func machine() containers.Machine {
	m := containers.ThisMachine(&containers.Ports{})
	m.LookupEnv = func(string) (string, bool) { return "", false }
	m.Exists = func(string) error { return nil }
	m.Getwd = func() (string, error) { return os.TempDir(), nil }
	return m
}

func planOf(t *testing.T, text string) (*plan, error) {
	t.Helper()
	all, err := parse([]byte(text))
	if err != nil {
		return nil, err
	}
	if len(all.pods) == 0 {
		return nil, errNoPods
	}
	return all.plan(&all.pods[0], machine())
}

const shop = `
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {conf: "port 80", level: debug}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec:
  hostAliases: [{ip: 10.0.0.9, hostnames: [bank]}]
  shareProcessNamespace: true
  restartPolicy: OnFailure
  securityContext: {runAsUser: 5, fsGroup: 7}
  initContainers:
  - {name: migrate, image: db, command: [migrate]}
  containers:
  - name: web
    image: nginx
    args: [-x, "$(LEVEL)", "$(UNKNOWN)", "$$(LEVEL)"]
    ports: [{containerPort: 80, hostPort: 8080}]
    env:
    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: site, key: level}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
    - {name: BOTH, value: "$(LEVEL)-$(UNKNOWN)-$$(LEVEL)"}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    securityContext: {readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
    livenessProbe: {exec: {command: [test, -e, "/it's"]}, periodSeconds: 3}
    volumeMounts:
    - {name: conf, mountPath: /etc/site}
    - {name: scratch, mountPath: /scratch}
    - {name: data, mountPath: /data, readOnly: true}
  - name: helper
    image: busybox
    readinessProbe: {tcpSocket: {port: 80}}
    volumeMounts: [{name: scratch, mountPath: /s}]
  volumes:
  - {name: conf, configMap: {name: site, items: [{key: conf, path: a/site.conf}], defaultMode: 0400}}
  - {name: scratch, emptyDir: {}}
  - {name: data, persistentVolumeClaim: {claimName: shop-data}}
`

func TestPlan(t *testing.T) {
	p, err := planOf(t, shop)
	if err != nil {
		t.Fatal(err)
	}
	steps, warnings := p.steps, p.warnings
	if len(steps) != 3 || steps[0].init || !steps[1].init || steps[0].request.GetName() != "shop-web" {
		t.Fatalf("got %d steps: %+v", len(steps), steps)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "helper") {
		t.Errorf("warnings are %v", warnings)
	}
	first, web, helper := steps[0].request, steps[0].request, steps[2].request
	if ports := first.GetPod().GetPortMappings(); len(ports) != 1 || ports[0].GetHostPort() != 8080 {
		t.Errorf("the pod's ports are %v", ports)
	}
	if !slices.Equal(first.GetExtraHosts(), []string{"bank:10.0.0.9"}) {
		t.Errorf("the pod's hosts are %v", first.GetExtraHosts())
	}
	for _, r := range []struct{ got, want any }{
		{steps[1].request.GetRestart().GetName(), "no"},
		{web.GetRestart().GetName(), "on-failure"},
		{web.GetUser(), "5"},
		{web.GetContainer().GetLinux().GetResources().GetMemoryLimitInBytes(), int64(64 << 20)},
		{web.GetContainer().GetLinux().GetSecurityContext().GetReadonlyRootfs(), true},
		{web.GetContainer().GetLinux().GetSecurityContext().GetNamespaceOptions() == nil, true},
		{first.GetPod().GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid(), runtimeapi.NamespaceMode_POD},
		{strings.Join(web.GetHealthcheck().GetTest(), " "), `CMD test -e /it's`},
		{helper.GetVolumes()[0].GetName(), "shop_scratch"},
		{web.GetVolumes()[2].GetName(), "shop-data"},
		{web.GetVolumes()[2].GetReadonly(), true},
		{web.GetVolumes()[0].GetPath(), "/etc/site"},
		{len(p.volumes), 2},
		{p.volumes[0].GetFiles()[0].GetPath(), "a/site.conf"},
		{p.volumes[0].GetFiles()[0].GetMode(), uint32(0o440)},
		{p.volumes[0].GetFiles()[0].GetGid(), uint32(7)},
		{string(p.volumes[0].GetFiles()[0].GetContent()), "port 80"},
		{p.volumes[1].GetMode(), uint32(0o777)},
		{strings.Join(first.GetNetworks()[0].GetAliases(), " "), "shop front"},
		{strings.Join(web.GetContainer().GetArgs(), " "), "-x debug $(UNKNOWN) $(LEVEL)"},
	} {
		if r.got != r.want {
			t.Errorf("got %v, want %v", r.got, r.want)
		}
	}
	env := map[string]string{}
	for _, e := range web.GetContainer().GetEnvs() {
		env[e.GetKey()] = string(e.GetValue())
	}
	for name, want := range map[string]string{"LEVEL": "debug", "PASSWORD": "hunter2", "BOTH": "debug-$(UNKNOWN)-$(LEVEL)", "POD": "shop"} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
}

func TestDeployment(t *testing.T) {
	all, err := parse([]byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(all.pods) != 2 || all.pods[0].Name != "web-0" || all.pods[1].Name != "web-1" {
		t.Errorf("got %v", all.pods)
	}
}

func TestBadManifests(t *testing.T) {
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: " + spec + "\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":         {"", "no Pod or Deployment"},
		"no yaml":         {"{", "document 1"},
		"no kind":         {"metadata: {name: p}", "kind is missing"},
		"no version":      {"kind: Pod\nspec: {containers: [{name: a, image: b}]}", "apiVersion"},
		"other version":   {"apiVersion: v1\nkind: Deployment\nmetadata: {name: a}", "apps/v1"},
		"no name":         {"apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: b}]}", "metadata.name"},
		"bad name":        {"apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\nspec: {containers: [{name: a, image: b}]}", "metadata.name"},
		"no containers":   {pod("{}"), "spec.containers"},
		"no image":        {pod("{containers: [{name: a}]}"), "spec.containers[0].image"},
		"container name":  {pod("{containers: [{name: a, image: b}, {name: A, image: b}]}"), "spec.containers[1].name"},
		"same name":       {pod("{initContainers: [{name: a, image: b}], containers: [{name: a, image: b}]}"), "spec.containers[0].name"},
		"pull policy":     {pod("{containers: [{name: a, image: b, imagePullPolicy: Often}]}"), "spec.containers[0].imagePullPolicy"},
		"port":            {pod("{containers: [{name: a, image: b, ports: [{containerPort: 0}]}]}"), "spec.containers[0].ports[0].containerPort"},
		"host port":       {pod("{containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 70000}]}]}"), "ports[0].hostPort"},
		"same port":       {pod("{containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 7}, {containerPort: 2, hostPort: 7}]}]}"), "ports[1].hostPort"},
		"protocol":        {pod("{containers: [{name: a, image: b, ports: [{containerPort: 1, protocol: IPX}]}]}"), "ports[0].protocol"},
		"mount path":      {pod("{volumes: [{name: v, emptyDir: {}}], containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: v}]}]}"), "volumeMounts[0].mountPath"},
		"sub path":        {pod("{volumes: [{name: v, emptyDir: {}}], containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}]}"), "volumeMounts[0].subPath"},
		"variable":        {pod("{containers: [{name: a, image: b, env: [{name: \"A B\", value: c}]}]}"), "spec.containers[0].env[0].name"},
		"grace":           {pod("{terminationGracePeriodSeconds: -1, containers: [{name: a, image: b}]}"), "spec.terminationGracePeriodSeconds"},
		"probe":           {pod("{containers: [{name: a, image: b, livenessProbe: {exec: {command: [a]}, periodSeconds: -1}}]}"), "livenessProbe.periodSeconds"},
		"type":            {pod("{containers: [{name: a, image: b, ports: [{containerPort: http}]}]}"), "containerPort"},
		"replicas":        {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: -1}", "spec.replicas"},
		"job":             {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}", "Job"},
		"config path":     {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: v}\n---\n" + pod("{volumes: [{name: v, configMap: {name: c, items: [{key: k, path: ../x}]}}], containers: [{name: a, image: b}]}"), "spec.volumes[0]"},
		"unknown field":   {pod("{containers: [{name: a, image: b, imagee: c}]}"), "imagee"},
		"twice":           {pod("{containers: [{name: a, image: b}]}") + "---\n" + pod("{containers: [{name: a, image: b}]}"), "twice"},
		"restart policy":  {pod("{restartPolicy: Sometimes, containers: [{name: a, image: b}]}"), "spec.restartPolicy"},
		"no such volume":  {pod("{containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}"), "no volume v"},
		"unknown volume":  {pod("{volumes: [{name: v, nfs: {server: s, path: /}}], containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}"), "volume v"},
		"no ConfigMap":    {pod("{containers: [{name: a, image: b, envFrom: [{configMapRef: {name: c}}]}]}"), "ConfigMap c"},
		"no Secret":       {pod("{containers: [{name: a, image: b, env: [{name: N, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]}"), "secret s"},
		"cluster's field": {pod("{containers: [{name: a, image: b, env: [{name: N, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}]}"), "status.podIP"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := planOf(t, test.text); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want one of %q", err, test.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(shop))
	f.Fuzz(func(_ *testing.T, text []byte) {
		all, err := parse(text)
		if err != nil {
			return
		}
		for i := range all.pods {
			_, _ = all.plan(&all.pods[i], machine())
		}
	})
}

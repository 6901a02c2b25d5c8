package kube

import (
	"encoding/json"
	"strings"
	"testing"
)

const inspected = `{
  "Id": "aa", "Name": "shop-web-1", "Pod": {"Name": "shop-web-1"},
  "Config": {"Image": "nginx:1", "Cmd": ["-g"], "Env": ["PATH=/bin", "LEVEL=debug"], "User": "5:6",
    "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}},
  "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "RestartPolicy": {"Name": "always"},
    "Memory": 67108864, "NanoCpus": 500000000, "CapDrop": ["CAP_NET_RAW"]},
  "Mounts": [{"Type": "volume", "Name": "shop_data", "Destination": "/data", "RW": true},
    {"Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": false}]
}`

func TestGenerate(t *testing.T) {
	var i inspection
	if err := json.Unmarshal([]byte(inspected), &i); err != nil {
		t.Fatal(err)
	}
	g := &generator{kind: "deployment", service: true}
	var text strings.Builder
	for _, object := range g.manifests(group{name: "web", replicas: 2, containers: []*inspection{&i}}) {
		one, err := document(object)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n" + one)
	}
	for _, want := range []string{
		"kind: PersistentVolumeClaim\n", "kind: Deployment\n", "kind: Service\n", "replicas: 2\n", "image: nginx:1\n",
		"containerPort: 80\n", "hostPort: 8080\n", "claimName: shop-data\n", "memory: 64Mi\n", "cpu: 500m\n", "- NET_RAW\n",
		"runAsUser: 5\n", "readOnly: true\n", "name: LEVEL\n", "path: /srv\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	for _, no := range []string{"status", "creationTimestamp", "name: PATH"} {
		if strings.Contains(text.String(), no) {
			t.Errorf("%q in\n%s", no, text.String())
		}
	}
	// The way back.
	all, err := parse([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.plan(&all.pods[0], machine()); err != nil || len(all.pods) != 2 {
		t.Errorf("%d pods, %v", len(all.pods), err)
	}
}

// What a container was told stays as it is, whatever it looks like.
func TestGenerateKeepsWords(t *testing.T) {
	script := "cat <<EOF >/etc/app.yaml\nstatus:\nstatus: {}\nresources: {}\ncreationTimestamp: null\nEOF\nexec app"
	var i inspection
	if err := json.Unmarshal([]byte(inspected), &i); err != nil {
		t.Fatal(err)
	}
	i.Config.Entrypoint = []string{"sh", "-c", script}
	g := &generator{kind: "pod"}
	objects := g.manifests(group{name: "web", containers: []*inspection{&i}})
	text, err := document(objects[len(objects)-1])
	if err != nil {
		t.Fatal(err)
	}
	all, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := all.pods[0].Spec.Containers[0].Command; len(got) != 3 || got[2] != script {
		t.Errorf("the command became %q in\n%s", got, text)
	}
}

// A pod's own volume is never the one of a claim.
func TestOwnVolumeIsNoClaim(t *testing.T) {
	p, err := planOf(t, `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  volumes: [{name: data, emptyDir: {}}, {name: kept, persistentVolumeClaim: {claimName: web-data}}]
  containers:
  - {name: a, image: b, volumeMounts: [{name: data, mountPath: /data}, {name: kept, mountPath: /kept}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	volumes := p.steps[0].request.GetVolumes()
	if len(volumes) != 2 || volumes[0].GetName() == volumes[1].GetName() || volumes[1].GetName() != "web-data" {
		t.Errorf("the volumes are %v", volumes)
	}
}

package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
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
		document, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n" + clean(string(document)))
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

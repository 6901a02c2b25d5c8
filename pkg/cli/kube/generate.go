package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// inspection is what of docker's inspect a manifest needs.
type inspection struct {
	ID    string `json:"Id"`
	Name  string
	Pod   struct{ ID, Name string }
	Image string

	Config struct {
		Hostname, User, Image, WorkingDir string
		Tty, OpenStdin                    bool
		Env, Cmd, Entrypoint              []string
		Labels                            map[string]string
		StopTimeout                       *int64
		Healthcheck                       *healthcheck
	}
	HostConfig struct {
		NetworkMode, PidMode, IpcMode string
		ExtraHosts, GroupAdd          []string
		PortBindings                  map[string][]struct{ HostIP, HostPort string }
		RestartPolicy                 struct{ Name string }
		CapAdd, CapDrop               []string
		Privileged, ReadonlyRootfs    bool
		Memory, NanoCpus              int64
		Tmpfs                         map[string]string
	}
	Mounts []struct {
		Type, Name, Source, Destination string
		RW                              bool
	}
}

// healthcheck as docker writes it, with times in nanoseconds.
type healthcheck struct {
	Test                           []string
	Interval, Timeout, StartPeriod int64
	Retries                        int32
}

// The label that tells which service of a Compose file a container is of.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
)

// generator is `generate kube`.
type generator struct {
	flags         *client.Flags
	kind, project string
	service       bool
}

// GenerateCommand is `generate`, with `kube` below it.
func GenerateCommand(flags *client.Flags) *cobra.Command {
	g := &generator{flags: flags}
	kube := &cobra.Command{
		Use:   "kube [CONTAINER...]",
		Short: "Print manifests of containers that are here",
		Long: "Print manifests of containers that are here: a Pod for each pod, or a Deployment. With --project\n" +
			"those of a Compose project, with a Service for each that has ports, under the names that the\n" +
			"services know one another by.",
		Example: "  cri-node generate kube web > pod.yaml\n" +
			"  cri-node generate kube --project shop | kubectl apply -f -",
		RunE: g.run,
		Args: cobra.ArbitraryArgs,
	}
	f := kube.Flags()
	f.StringVar(&g.kind, "type", "pod", "pod or deployment")
	f.BoolVarP(&g.service, "service", "s", false, "print a Service for containers with ports")
	f.StringVar(&g.project, "project", "", "the containers of this Compose `project`, as Deployments with Services")
	generate := &cobra.Command{
		Use: "generate", Short: "Print what containers are in other words",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	generate.AddCommand(kube)
	return generate
}

func (g *generator) run(cmd *cobra.Command, names []string) error {
	if g.kind != "pod" && g.kind != "deployment" {
		return fmt.Errorf("--type %s is unknown: it can be pod or deployment", g.kind)
	}
	n, err := g.flags.Open()
	if err != nil {
		return err
	}
	defer n.Close() //nolint:errcheck // nothing is lost with it
	groups, err := g.groups(cmd.Context(), n, names)
	if err != nil {
		return g.flags.Explain(err)
	}
	var documents []string
	for _, group := range groups {
		for _, object := range g.manifests(group) {
			text, err := document(object)
			if err != nil {
				return fmt.Errorf("write manifest: %w", err)
			}
			if !slices.Contains(documents, text) { // two may have the same claim
				documents = append(documents, text)
			}
		}
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), strings.Join(documents, "---\n"))
	return err
}

// document is an object as YAML, without what the types say of one that no cluster
// has seen.
func document(object any) (string, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return "", err
	}
	delete(fields, "status")
	withoutEmpty(fields)
	text, err = yaml.Marshal(fields)
	return string(text), err
}

// withoutEmpty deletes fields that say nothing: null, and resources and strategies
// with nothing in them. An emptyDir of {} says something.
func withoutEmpty(value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			withoutEmpty(field)
			inner, isMap := field.(map[string]any)
			if field == nil || isMap && len(inner) == 0 && (key == "resources" || key == "strategy") {
				delete(v, key)
			}
		}
	case []any:
		for _, one := range v {
			withoutEmpty(one)
		}
	}
}

// group are the containers of one manifest.
type group struct {
	name       string
	replicas   int32
	containers []*inspection
}

// groups puts containers together that are in one pod, or of one service.
func (g *generator) groups(ctx context.Context, n *client.Node, names []string) ([]group, error) {
	answer, err := n.Containers.List(ctx, &nodev1.ListRequest{})
	if err != nil {
		return nil, err
	}
	var wanted []string
	if g.project != "" {
		g.kind, g.service = "deployment", true
		for _, c := range answer.GetContainers() {
			if c.GetLabels()[composeProject] == g.project {
				wanted = append(wanted, c.GetId())
			}
		}
		if len(wanted) == 0 {
			return nil, fmt.Errorf("project %s has no containers: \"cri-node compose up\" makes them", g.project)
		}
	}
	for _, name := range names {
		found := false
		for _, c := range answer.GetContainers() { // a pod's name stands for all in it
			if c.GetPod() == name && c.GetName() != name {
				wanted, found = append(wanted, c.GetId()), true
			}
		}
		if !found {
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return nil, errors.New("name a container, or a project with --project")
	}
	byName := map[string]*group{}
	for _, container := range wanted {
		i, err := inspect(ctx, n, container)
		if err != nil {
			return nil, err
		}
		name, service := i.Pod.Name, i.Config.Labels[composeService]
		if pod := i.Config.Labels[labelPod]; pod != "" {
			name = pod
		}
		if g.project != "" && service != "" {
			name = service
		}
		switch known := byName[name]; {
		case known == nil:
			byName[name] = &group{name: objectName(name), replicas: 1, containers: []*inspection{i}}
		case g.project != "" && service != "":
			known.replicas++
		case !slices.ContainsFunc(known.containers, func(o *inspection) bool { return o.ID == i.ID }):
			known.containers = append(known.containers, i)
		}
	}
	groups := make([]group, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		groups = append(groups, *byName[name])
	}
	return groups, nil
}

// objectName makes a name that Kubernetes takes.
func objectName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(name, "/")))
	return strings.Trim(name[:min(len(name), 63)], "-")
}

// manifests are the objects of one group.
func (g *generator) manifests(group group) []any {
	labels := map[string]string{"app": group.name}
	pod := podOf(group)
	var objects []any
	claims := pod.Spec.Volumes
	for _, v := range claims {
		if v.PersistentVolumeClaim != nil {
			objects = append(objects, claimOf(v.PersistentVolumeClaim.ClaimName))
		}
	}
	if g.kind == "deployment" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
		objects = append(objects, &appsv1.Deployment{
			TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			ObjectMeta: metav1.ObjectMeta{Name: group.name, Labels: labels},
			Spec: appsv1.DeploymentSpec{
				Replicas: &group.replicas,
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
			},
		})
	} else {
		objects = append(objects, pod)
	}
	if service := serviceOf(group.name, labels, pod); g.service && len(service.Spec.Ports) > 0 {
		objects = append(objects, service)
	}
	return objects
}

func claimOf(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

// serviceOf makes a pod's ports known under its name.
func serviceOf(name string, labels map[string]string, pod *corev1.Pod) *corev1.Service {
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.ServiceSpec{Selector: labels},
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
				Name:     strings.ToLower(string(p.Protocol)) + "-" + strconv.Itoa(int(p.ContainerPort)),
				Protocol: p.Protocol, Port: p.ContainerPort, TargetPort: intstr.FromInt32(p.ContainerPort),
			})
		}
	}
	return s
}

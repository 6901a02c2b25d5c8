package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// maxManifest is the largest file read, in bytes.
const maxManifest = 16 << 20

// maxReplicas is how many pods one Deployment may have on one machine.
const maxReplicas = 250

// objects are what a file has.
type objects struct {
	pods       []corev1.Pod
	configMaps map[string]corev1.ConfigMap
	secrets    map[string]corev1.Secret
	services   []corev1.Service
	claims     map[string]bool
	// workloads are what pods are replicas of, as Deployment/NAME by pod; empty are
	// those that want no replica.
	workloads map[string]string
	empty     []string
	// ignored are kinds that mean nothing on one machine.
	ignored []string
}

// readFile reads the objects of a file, or of standard input for "-".
func readFile(path string, stdin io.Reader) (*objects, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxManifest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(text) > maxManifest:
		return nil, fmt.Errorf("read %s: it is larger than %d bytes", path, maxManifest)
	}
	return parse(text)
}

// parse reads the documents of a file.
func parse(text []byte) (*objects, error) {
	all := &objects{configMaps: map[string]corev1.ConfigMap{}, secrets: map[string]corev1.Secret{}, claims: map[string]bool{}, workloads: map[string]string{}}
	reader := utilyaml.NewYAMLReader(newLineReader(text))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if plain, err := yaml.YAMLToJSON(document); err == nil && string(plain) == "null" {
			continue // nothing but comments
		}
		if err := all.add(document); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
	}
	return all, nil
}

// apiVersions are the versions of the kinds that are read.
var apiVersions = map[string]string{
	"Pod": "v1", "ConfigMap": "v1", "Secret": "v1", "PersistentVolumeClaim": "v1", "Service": "v1", "List": "v1",
	"Deployment": "apps/v1", "DaemonSet": "apps/v1",
}

// add adds one document.
func (all *objects) add(document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return fmt.Errorf("read its kind: %w", err)
	}
	if want, known := apiVersions[kind.Kind]; known && kind.APIVersion != want {
		return fmt.Errorf("apiVersion: %q is not %s, the one of a %s that is known here", kind.APIVersion, want, kind.Kind)
	}
	switch kind.Kind {
	case "Pod", "Deployment", "DaemonSet":
		return all.addWorkload(kind.Kind, document)
	case "List":
		var list struct {
			metav1.TypeMeta `json:",inline"`
			metav1.ListMeta `json:"metadata"`
			Items           []json.RawMessage `json:"items"`
		}
		if err := strict(document, &list); err != nil {
			return err
		}
		for i, item := range list.Items {
			if err := all.add(item); err != nil {
				return fmt.Errorf("items[%d]: %w", i, err)
			}
		}
	case "ConfigMap":
		var c corev1.ConfigMap
		if err := strict(document, &c); err != nil {
			return err
		}
		all.configMaps[c.Name] = c
	case "Secret":
		var s corev1.Secret
		if err := strict(document, &s); err != nil {
			return err
		}
		for key, value := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[key] = []byte(value)
		}
		all.secrets[s.Name] = s
	case "Service":
		var s corev1.Service
		if err := strict(document, &s); err != nil {
			return err
		}
		all.services = append(all.services, s)
	case "PersistentVolumeClaim":
		var c corev1.PersistentVolumeClaim
		if err := strict(document, &c); err != nil {
			return err
		}
		all.claims[c.Name] = true
	case "":
		return errors.New("kind is missing")
	case "Job", "CronJob", "StatefulSet", "ReplicaSet", "ReplicationController":
		return fmt.Errorf("kind: %s is not played here: Pods, Deployments and DaemonSets are", kind.Kind)
	default:
		all.ignored = append(all.ignored, kind.Kind)
	}
	return nil
}

// addWorkload adds the pods of a document.
func (all *objects) addWorkload(kind string, document []byte) error {
	var meta metav1.ObjectMeta
	var template corev1.PodTemplateSpec
	replicas := int32(1)
	switch kind {
	case "Pod":
		var pod corev1.Pod
		if err := strict(document, &pod); err != nil {
			return err
		}
		return all.addPod("pod "+pod.Name, pod)
	case "Deployment":
		var d appsv1.Deployment
		if err := strict(document, &d); err != nil {
			return err
		}
		meta, template = d.ObjectMeta, d.Spec.Template
		if d.Spec.Replicas != nil {
			replicas = *d.Spec.Replicas
		}
		if replicas < 0 || replicas > maxReplicas {
			return fmt.Errorf("deployment %s: spec.replicas: %d is not from 0 to %d", d.Name, replicas, maxReplicas)
		}
	case "DaemonSet":
		var d appsv1.DaemonSet
		if err := strict(document, &d); err != nil {
			return err
		}
		meta, template = d.ObjectMeta, d.Spec.Template
	}
	if meta.Name == "" {
		return fmt.Errorf("%s: metadata.name is missing", kind)
	}
	workload := kind + "/" + meta.Name
	if replicas == 0 {
		all.empty = append(all.empty, workload)
	}
	for i := range replicas {
		pod := corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
		pod.Name, pod.Namespace = fmt.Sprintf("%s-%d", meta.Name, i), meta.Namespace
		if err := all.addPod(strings.ToLower(kind)+" "+meta.Name, pod); err != nil {
			return err
		}
		all.workloads[pod.Name] = workload
	}
	return nil
}

// addPod adds a pod, if it could be one.
func (all *objects) addPod(title string, pod corev1.Pod) error {
	if err := validate(&pod); err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(title), err)
	}
	for _, other := range all.pods {
		if other.Name == pod.Name {
			return fmt.Errorf("pod %s is there twice", pod.Name)
		}
	}
	all.pods = append(all.pods, pod)
	return nil
}

// strict reads an object and refuses fields that it does not have.
func strict(document []byte, object any) error {
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: "))
	}
	return nil
}

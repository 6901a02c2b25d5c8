package kube

import (
	"bytes"
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
	claims     map[string]bool
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
	all := &objects{configMaps: map[string]corev1.ConfigMap{}, secrets: map[string]corev1.Secret{}, claims: map[string]bool{}}
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
		if err := all.add(document); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
	}
	return all, nil
}

// add adds one document.
func (all *objects) add(document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return fmt.Errorf("read its kind: %w", err)
	}
	switch kind.Kind {
	case "Pod":
		var pod corev1.Pod
		if err := strict(document, &pod); err != nil {
			return err
		}
		return all.addPod(pod)
	case "Deployment":
		var d appsv1.Deployment
		if err := strict(document, &d); err != nil {
			return err
		}
		replicas := int32(1)
		if d.Spec.Replicas != nil {
			replicas = *d.Spec.Replicas
		}
		if replicas < 0 || replicas > maxReplicas {
			return fmt.Errorf("deployment %s: replicas: %d is not from 0 to %d", d.Name, replicas, maxReplicas)
		}
		for i := range replicas {
			pod := corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
			pod.Name = fmt.Sprintf("%s-%d", d.Name, i)
			if err := all.addPod(pod); err != nil {
				return err
			}
		}
		return nil
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
	case "PersistentVolumeClaim":
		var c corev1.PersistentVolumeClaim
		if err := strict(document, &c); err != nil {
			return err
		}
		all.claims[c.Name] = true
	case "":
		return errors.New("kind is missing")
	default:
		all.ignored = append(all.ignored, kind.Kind)
	}
	return nil
}

// addPod checks what can be checked of a pod alone.
func (all *objects) addPod(pod corev1.Pod) error {
	switch {
	case pod.Name == "":
		return fmt.Errorf("%s: metadata.name is missing", pod.Kind)
	case len(pod.Spec.Containers) == 0:
		return fmt.Errorf("pod %s: spec.containers is empty", pod.Name)
	}
	for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if c.Name == "" || c.Image == "" {
			return fmt.Errorf("pod %s: a container has no name or no image", pod.Name)
		}
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
func strict(document []byte, object metav1.Object) error {
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "error unmarshaling JSON: while decoding JSON: "))
	}
	return nil
}

package kube

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

func newLineReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }

// environment returns the variables of a container as NAME=VALUE, with $(NAME)
// of earlier ones filled in, and the values by their names.
func (all *objects) environment(pod *corev1.Pod, c *corev1.Container) (env []string, values map[string]string, err error) {
	values = map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			order = append(order, name)
		}
		values[name] = value
	}
	for i, from := range c.EnvFrom {
		data, err := all.environmentFrom(from)
		if err != nil {
			return nil, nil, fmt.Errorf("envFrom[%d]: %w", i, err)
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			set(from.Prefix+key, data[key])
		}
	}
	for _, e := range c.Env {
		value := expand(e.Value, values)
		if e.ValueFrom != nil {
			var ok bool
			var err error
			if value, ok, err = all.valueFrom(pod, e.ValueFrom); err != nil {
				return nil, nil, fmt.Errorf("env %s: %w", e.Name, err)
			}
			if !ok {
				continue
			}
		}
		set(e.Name, value)
	}
	env = make([]string, 0, len(order))
	for _, name := range order {
		env = append(env, name+"="+values[name])
	}
	return env, values, nil
}

// environmentFrom is a whole ConfigMap or Secret.
func (all *objects) environmentFrom(from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		c, ok := all.configMaps[from.ConfigMapRef.Name]
		if !ok && !optional(from.ConfigMapRef.Optional) {
			return nil, fmt.Errorf("ConfigMap %s is not in the file", from.ConfigMapRef.Name)
		}
		return c.Data, nil
	case from.SecretRef != nil:
		s, ok := all.secrets[from.SecretRef.Name]
		if !ok && !optional(from.SecretRef.Optional) {
			return nil, fmt.Errorf("secret %s is not in the file", from.SecretRef.Name)
		}
		data := map[string]string{}
		for key, value := range s.Data {
			data[key] = string(value)
		}
		return data, nil
	}
	return nil, nil
}

// valueFrom is one value; ok is false for an optional one that is not there.
func (all *objects) valueFrom(pod *corev1.Pod, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		if value, ok = all.configMaps[ref.Name].Data[ref.Key]; !ok && !optional(ref.Optional) {
			return "", false, fmt.Errorf("ConfigMap %s with a key %s is not in the file", ref.Name, ref.Key)
		}
		return value, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, ok := all.secrets[ref.Name].Data[ref.Key]
		if !ok && !optional(ref.Optional) {
			return "", false, fmt.Errorf("secret %s with a key %s is not in the file", ref.Name, ref.Key)
		}
		return string(data), ok, nil
	case from.FieldRef != nil:
		switch path := from.FieldRef.FieldPath; path {
		case "metadata.name":
			return pod.Name, true, nil
		case "metadata.namespace":
			return namespaceOf(pod), true, nil
		case "spec.nodeName", "spec.serviceAccountName", "metadata.uid":
			return "", true, nil
		default:
			return "", false, fmt.Errorf("fieldRef %s is known in a cluster only", path)
		}
	}
	return "", false, fmt.Errorf("only values of ConfigMaps, Secrets and metadata are known here")
}

func optional(o *bool) bool { return o != nil && *o }

func namespaceOf(pod *corev1.Pod) string {
	if pod.Namespace != "" {
		return pod.Namespace
	}
	return "default"
}

// expandAll fills in $(NAME) in a command line.
func expandAll(words []string, values map[string]string) []string {
	var all []string
	for _, w := range words {
		all = append(all, expand(w, values))
	}
	return all
}

// expand fills in $(NAME); $$ is a dollar, and what is not known stays.
func expand(text string, values map[string]string) string {
	var out bytes.Buffer
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := bytes.IndexByte([]byte(text[i:]), ')')
			if end < 0 {
				out.WriteByte('$')
				continue
			}
			name := text[i+2 : i+end]
			if value, ok := values[name]; ok {
				out.WriteString(value)
			} else {
				out.WriteString(text[i : i+end+1])
			}
			i += end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

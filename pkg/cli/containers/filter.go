package containers

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// filters are the values of each key of --filter. One of a key's values must
// match, of labels all.
type filters map[string][]string

// filterKeys are those of ps.
func filterKeys() []string {
	return []string{
		"id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", "publish", "expose",
		"health", "pod", "namespace", "kubernetes",
	}
}

// states are those a container can have.
func states() []string {
	return []string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}
}

func parseFilters(all []string) (filters, error) {
	f := make(filters)
	for _, s := range all {
		key, value, err := argument.Filter(s, filterKeys()...)
		if err != nil {
			return nil, err
		}
		if key == "status" && !slices.Contains(states(), value) {
			return nil, fmt.Errorf("invalid filter 'status=%s': it can be %s", value, strings.Join(states(), ", "))
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

// anyState: the filters ask for containers that do not run.
func (f filters) anyState() bool { return len(f["status"])+len(f["exited"]) > 0 }

// matcher is what containers must match, out of all of them, the newest first.
func (f filters) matcher(all []*nodev1.Container) (func(*nodev1.Container) bool, error) {
	var tests []func(*nodev1.Container) bool
	for key, values := range f {
		var any []func(*nodev1.Container) bool
		for _, v := range values {
			test, err := filterTest(key, v, all)
			if err != nil {
				return nil, fmt.Errorf("invalid filter '%s=%s': %w", key, v, err)
			}
			any = append(any, test)
		}
		tests = append(tests, func(c *nodev1.Container) bool {
			matched := func(test func(*nodev1.Container) bool) bool { return test(c) }
			if key == "label" {
				return !slices.ContainsFunc(any, func(t func(*nodev1.Container) bool) bool { return !t(c) })
			}
			return slices.ContainsFunc(any, matched)
		})
	}
	return func(c *nodev1.Container) bool {
		return !slices.ContainsFunc(tests, func(t func(*nodev1.Container) bool) bool { return !t(c) })
	}, nil
}

// filterTest is the test of one filter.
func filterTest(key, value string, all []*nodev1.Container) (func(*nodev1.Container) bool, error) {
	switch key {
	case "id":
		return func(c *nodev1.Container) bool { return strings.HasPrefix(c.GetId(), value) }, nil
	case "name":
		expression, err := regexp.Compile(value)
		if err != nil {
			return nil, err
		}
		return func(c *nodev1.Container) bool {
			// docker's names begin with a /, which its users write at times
			return expression.MatchString(displayName(c)) || expression.MatchString("/"+displayName(c))
		}, nil
	case "label":
		return func(c *nodev1.Container) bool { return argument.HasLabel(c.GetLabels(), value) }, nil
	case "status":
		return func(c *nodev1.Container) bool { return c.GetState() == value }, nil
	case "exited":
		code, err := strconv.Atoi(value)
		if err != nil {
			return nil, err
		}
		return func(c *nodev1.Container) bool { return c.GetState() == "exited" && int(c.GetExitCode()) == code }, nil
	case "ancestor":
		return func(c *nodev1.Container) bool { return isImage(c, value) }, nil
	case "before", "since":
		return orderTest(key, value, all)
	case "publish", "expose":
		return portTest(key, value)
	}
	return simpleTest(key, value)
}

func simpleTest(key, value string) (func(*nodev1.Container) bool, error) {
	switch key {
	case "volume":
		return func(c *nodev1.Container) bool {
			return slices.ContainsFunc(c.GetMounts(), func(m *nodev1.Mount) bool { return m.GetSource() == value || m.GetDestination() == value })
		}, nil
	case "network":
		return func(c *nodev1.Container) bool { return slices.Contains(c.GetNetworks(), value) }, nil
	case "health":
		return func(c *nodev1.Container) bool {
			return c.GetHealth() == value || c.GetHealth() == "" && value == "none"
		}, nil
	case "pod":
		return func(c *nodev1.Container) bool { return c.GetPod() == value || strings.HasPrefix(c.GetPodId(), value) }, nil
	case "namespace":
		return func(c *nodev1.Container) bool { return c.GetNamespace() == value }, nil
	}
	yes, err := strconv.ParseBool(value)
	if err != nil {
		return nil, err
	}
	return func(c *nodev1.Container) bool { return c.GetKubernetes() == yes }, nil
}

// orderTest finds the container named, and compares times.
func orderTest(key, value string, all []*nodev1.Container) (func(*nodev1.Container) bool, error) {
	i := slices.IndexFunc(all, func(c *nodev1.Container) bool {
		return c.GetName() == value || displayName(c) == value || value != "" && strings.HasPrefix(c.GetId(), value)
	})
	if i < 0 {
		return nil, fmt.Errorf("no such container: %s", value)
	}
	at := all[i].GetCreatedAt()
	if key == "before" {
		return func(c *nodev1.Container) bool { return c.GetCreatedAt() < at }, nil
	}
	return func(c *nodev1.Container) bool { return c.GetCreatedAt() > at }, nil
}

func portTest(key, value string) (func(*nodev1.Container) bool, error) {
	ports, err := ParseExposed(value)
	if err != nil {
		return nil, err
	}
	return func(c *nodev1.Container) bool {
		return slices.ContainsFunc(c.GetPorts(), func(p *nodev1.Port) bool {
			return slices.ContainsFunc(ports, func(want PortSpec) bool {
				if protocolName(p) != strings.ToLower(want.Protocol.String()) {
					return false
				}
				if key == "publish" {
					return p.GetHostPort() == uint32(want.Container)
				}
				return p.GetContainerPort() == uint32(want.Container)
			})
		})
	}, nil
}

// isImage reports whether a container was made from an image, named with or
// without registry and tag, or by the beginning of its id.
func isImage(c *nodev1.Container, name string) bool {
	if id := strings.TrimPrefix(c.GetImageId(), "sha256:"); len(name) > 3 && strings.HasPrefix(id, strings.TrimPrefix(name, "sha256:")) {
		return true
	}
	got, want := familiar(c.GetImage()), familiar(name)
	if got == want {
		return true
	}
	repository, tag, _ := strings.Cut(got[strings.LastIndex(got, "/")+1:], ":")
	repository = got[:strings.LastIndex(got, "/")+1] + repository
	return repository == want || (tag == "" && repository+":latest" == want)
}

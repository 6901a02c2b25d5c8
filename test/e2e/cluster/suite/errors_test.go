package suite

import (
	"slices"
	"testing"
)

func TestRuntimeErrors(t *testing.T) {
	const log = `I1124 01:10:59.1 90 kuberuntime.go:1] "PullImage from image service failed"
E1124 01:10:59.2 90 remote_runtime.go:280] "StopContainer from runtime service failed" err="rpc error: code = Unknown desc = timeout"
E1124 01:10:59.3 90 remote_runtime.go:280] "ContainerStatus from runtime service failed" err="rpc error: code = NotFound desc = no container"
E1124 01:10:59.4 90 remote_image.go:180] "PullImage from image service failed" err="rpc error: code = Unavailable desc = registry"
E1124 01:10:59.5 90 csi_plugin.go:399] "Failed to initialize CSINode"
E1124 01:10:59.6 90 kubelet.go:2697] "Skipping pod synchronization" err="PLEG is not healthy: pleg was last seen active 3m ago"
`
	for _, test := range []struct {
		but  []string
		want []int // the ends of the times
	}{
		{nil, []int{2, 3, 4, 6}},
		{expected, []int{2, 4, 6}},
		{append(slices.Clone(expected), "PullImage"), []int{2, 6}},
	} {
		found, err := RuntimeErrors(log, test.but...)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, line := range found {
			got = append(got, int(line[len("E1124 01:10:59.")]-'0'))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("but for %q there are %v, want %v", test.but, got, test.want)
		}
	}
	if _, err := RuntimeErrors(log, "("); err == nil {
		t.Error("no error for a pattern that is none")
	}
}

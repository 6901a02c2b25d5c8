package cluster

import (
	"strings"
	"testing"
)

func TestKubectlLogsAndExec(t *testing.T) {
	ns := shared.Namespace(t)
	shared.Create(t, ns, shared.Shell("talker", "echo out; echo err >&2; exec sleep 1000"))
	shared.AwaitReady(t, ns, "talker")
	if out := shared.Do(t, "logs", "-n", ns, "talker"); !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
		t.Errorf("kubectl logs says %q", out)
	}
	out, err := shared.Kubectl.Feed(t.Context(), "typed", "exec", "-i", "-n", ns, "talker", "--", "cat")
	if err != nil || out != "typed" {
		t.Errorf("kubectl exec -i cat says %q: %v", out, err)
	}
	_, err = shared.Kubectl.Run(t.Context(), "exec", "-n", ns, "talker", "--", "sh", "-c", "exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("kubectl exec of a command that fails says %v", err)
	}
}

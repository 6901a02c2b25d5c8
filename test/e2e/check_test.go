package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/invariant"
)

// settleLimit is how long a node may take to free what an answered call freed.
const settleLimit = 10 * time.Second

// view is what the CRI says now.
func (e *env) view() (invariant.View, error) {
	ctx := context.WithoutCancel(e.Context())
	var v invariant.View
	pods, err := e.node.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return v, err
	}
	for _, p := range pods {
		status, err := e.node.Runtime.PodSandboxStatus(ctx, p.Id, false)
		if err != nil {
			return v, err
		}
		s := status.Status
		m := s.Metadata
		box := invariant.Sandbox{
			ID: p.Id, Key: fmt.Sprintf("%s/%s/%s/%d", m.Namespace, m.Name, m.Uid, m.Attempt),
			Ready:       s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
			HostNetwork: s.Linux.GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE,
		}
		if ip := s.Network.GetIp(); ip != "" {
			box.IPs = append(box.IPs, ip)
		}
		for _, ip := range s.Network.GetAdditionalIps() {
			box.IPs = append(box.IPs, ip.Ip)
		}
		v.Sandboxes = append(v.Sandboxes, box)
	}
	containers, err := e.node.Runtime.ListContainers(ctx, nil)
	for _, c := range containers {
		r, err := e.node.Runtime.ContainerStatus(ctx, c.Id, false)
		if err != nil {
			return v, err
		}
		one := seen(r.Status)
		one.SandboxID = c.PodSandboxId
		if listed := stateName(c.State); listed != one.State {
			return v, fmt.Errorf("container %s is %s in the list and %s in its status", c.Id, listed, one.State)
		}
		v.Containers = append(v.Containers, one)
	}
	return v, err
}

func stateName(s runtimeapi.ContainerState) string {
	return strings.TrimPrefix(s.String(), "CONTAINER_")
}

// seen is what the status of a container says, without its pod.
func seen(s *runtimeapi.ContainerStatus) invariant.Container {
	return invariant.Container{
		ID: s.Id, Key: fmt.Sprintf("%s/%d", s.Metadata.Name, s.Metadata.Attempt), State: stateName(s.State),
		CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Reason: s.Reason,
	}
}

// findings compares the kernel with what the CRI says, now.
func (e *env) findings() ([]string, error) {
	v, err := e.view()
	if err != nil {
		return nil, err
	}
	config := e.node.InvariantConfig()
	facts, err := invariant.Collect(config)
	past, pastErr := e.node.Watch.Check(config, facts, v)
	wrong := append(invariant.Check(facts, v), past...)
	return slices.DeleteFunc(wrong, func(w string) bool { return slices.Contains(e.before, w) }), errors.Join(err, pastErr)
}

// check fails if the kernel and the CRI do not agree on a quiet node.
func (e *env) check() {
	e.Helper()
	wrong, err := invariant.Settle(settleLimit, e.findings)
	if err != nil {
		e.Errorf("leak check: %v", err)
	}
	for _, w := range wrong[:min(len(wrong), 10)] {
		e.Errorf("leak check: %s", w)
	}
}

// residue fails if anything is left that the baseline did not have.
func (e *env) residue(baseline []invariant.Fact) {
	e.Helper()
	left, err := invariant.Settle(settleLimit, func() ([]string, error) {
		now, err := invariant.Collect(e.node.InvariantConfig())
		return invariant.Residue(baseline, now), err
	})
	if err != nil || len(left) > 0 {
		e.Errorf("full leak check: %v, %d left:\n%s", err, len(left), strings.Join(left[:min(len(left), 10)], "\n"))
	}
}

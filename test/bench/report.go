package main

import (
	"fmt"
	"io"
	"slices"
)

// report is all that was measured. The maps are keyed by the name of the call;
// "up" and "down" are whole pods.
type report struct {
	Runtime     string             `json:"runtime"`
	Handler     string             `json:"handler"`
	Date        string             `json:"date"`
	Pods        int                `json:"pods"`
	Parallel    int                `json:"parallel"`
	Sequential  map[string]summary `json:"sequential"`
	Concurrent  map[string]summary `json:"concurrent,omitempty"`
	UpSeconds   float64            `json:"up_seconds,omitempty"`
	DownSeconds float64            `json:"down_seconds,omitempty"`
	// Many pods were up while each call of Crowd was made.
	Many             int                `json:"many,omitempty"`
	Crowd            map[string]summary `json:"crowd,omitempty"`
	AtRest           cost               `json:"at_rest"`
	AtWork           cost               `json:"at_work"`
	WithPods         cost               `json:"with_pods"`
	WithPodsParallel cost               `json:"with_pods_parallel"`
}

// print writes the report as Markdown.
func (r *report) print(w io.Writer) {
	handler := r.Handler
	if handler == "" {
		handler = "the default handler"
	}
	fmt.Fprintf(w, "%s with %s, %d pods, %s. Milliseconds.\n\n", r.Runtime, handler, r.Pods, r.Date)
	fmt.Fprintf(w, "| call | median, one at a time | p99 | median, %d at a time | p99 |\n|---|---|---|---|---|\n", r.Parallel)
	names := slices.Concat(upCalls, []string{"up"}, downCalls, []string{"down",
		"ExecSync true", "ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus", "ListContainerStats"})
	for _, name := range names {
		label := name
		switch name {
		case "up":
			label = "**the three together**"
		case "down":
			label = "**the four together**"
		case "StopContainer":
			label = "StopContainer(0)"
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", label, cells(r.Sequential, name), cells(r.Concurrent, name))
	}
	if r.UpSeconds > 0 {
		fmt.Fprintf(w, "\n%d pods, %d at a time: up in %.2f s, down in %.2f s.\n", r.Pods, r.Parallel, r.UpSeconds, r.DownSeconds)
	}
	if len(r.Crowd) > 0 {
		fmt.Fprintf(w, "\n| with %d pods up, read anew | median | p99 |\n|---|---|---|\n", r.Many)
		for _, name := range []string{"ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics"} {
			fmt.Fprintf(w, "| %s | %s |\n", name, cells(r.Crowd, name))
		}
	}
	r.printPeople(w)
	if r.AtRest.Processes == 0 {
		return
	}
	pods := float64(r.Pods)
	fmt.Fprintf(w, "\nProcesses of the runtime: %d at rest with %.1f MB PSS, %d at rest with the pods up with %.1f MB; for each pod %.2f processes and %.3f MB. Just after the last start: %.1f MB.\n",
		r.AtRest.Processes, mb(r.AtRest.PSS), r.WithPods.Processes, mb(r.WithPods.PSS),
		float64(r.WithPods.Processes-r.AtRest.Processes)/pods, mb(r.WithPods.PSS-r.AtRest.PSS)/pods, mb(r.AtWork.PSS))
}

// printPeople writes what a person at a terminal waits for.
func (r *report) printPeople(w io.Writer) {
	run, ok := r.Sequential[peopleRun]
	if !ok {
		return
	}
	fmt.Fprintf(w, "\n| with %d pods up, to the first output | median | p99 |\n|---|---|---|\n", r.Pods)
	for _, name := range []string{peoplePS, peopleRun, peopleCalls, peopleCrictl} {
		if _, ok := r.Sequential[name]; ok {
			fmt.Fprintf(w, "| %s | %s |\n", name, cells(r.Sequential, name))
		}
	}
	for _, name := range []string{peopleCalls, peopleCrictl} {
		if other, ok := r.Sequential[name]; ok && other.Median > 0 {
			fmt.Fprintf(w, "\n`run` takes %.2f times what %s takes.\n", run.Median/other.Median, name)
		}
	}
}

func cells(m map[string]summary, name string) string {
	s, ok := m[name]
	if !ok {
		return "– | –"
	}
	return fmt.Sprintf("%.2f | %.2f", s.Median, s.P99)
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

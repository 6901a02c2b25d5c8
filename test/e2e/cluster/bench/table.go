package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// calmest are the rounds to tell, one of each contender: that in which the calls
// that start a pod took kubelet the shortest, one pod after another.
func calmest(names []string, all []*result) []*result {
	var best []*result
	for _, name := range names {
		var chosen *result
		for _, r := range all {
			if r.Name == name && (chosen == nil || r.One.calls() < chosen.One.calls()) {
				chosen = r
			}
		}
		best = append(best, chosen)
	}
	return best
}

// The calls that start a pod, and those that end it.
var (
	starting = []string{"run_podsandbox", "create_container", "start_container"}
	ending   = []string{"stop_container", "stop_podsandbox", "remove_container", "remove_podsandbox"}
)

// calls is the mean of the calls that start a pod, together.
func (p part) calls() (sum float64) {
	for _, name := range starting {
		sum += p.Up[operation(name)].mean()
	}
	return sum
}

// brief is a line about a round.
func (r *result) brief() string {
	return fmt.Sprintf("round %d, %s: start of a pod %.0f ms of calls, pod_start_sli %.0f ms; %d at a time %.0f and %.0f; load %s",
		r.Round, r.Name, 1000*r.One.calls(), 1000*r.One.Up[metricSLI].mean(),
		r.PodCount, 1000*r.Many.calls(), 1000*r.Many.Up[metricSLI].mean(), r.Load)
}

// table is one of Markdown, a column for each contender.
type table struct {
	columns int
	text    strings.Builder
}

func newTable(first string, results []*result) *table {
	t := &table{columns: len(results)}
	fmt.Fprintf(&t.text, "| %s |", first)
	for _, r := range results {
		fmt.Fprintf(&t.text, " %s |", r.Name)
	}
	t.text.WriteString("\n|---|" + strings.Repeat("---|", t.columns) + "\n")
	return t
}

func (t *table) row(name string, results []*result, value func(*result) string) {
	fmt.Fprintf(&t.text, "| %s |", name)
	for _, r := range results {
		fmt.Fprintf(&t.text, " %s |", value(r))
	}
	t.text.WriteString("\n")
}

// report writes the tables.
func report(w io.Writer, o options, results []*result) error {
	for _, r := range results {
		if _, err := fmt.Fprintf(w, "%s: %s, round %d of %d, load %s\n", r.Name, r.Version, r.Round, o.rounds, r.Load); err != nil {
			return err
		}
	}
	texts := []string{
		starts("one after another", results, func(r *result) part { return r.One }),
		starts(fmt.Sprintf("%d at a time", o.parallel), results, func(r *result) part { return r.Many }),
		atRest(o, results),
	}
	for _, text := range texts {
		if _, err := fmt.Fprintf(w, "\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

// starts is the table of one part.
func starts(how string, results []*result, of func(*result) part) string {
	t := newTable(fmt.Sprintf("%d pods, %s; ms", results[0].PodCount, how), results)
	t.row("**pod_start_sli**: mean (of so many)", results, func(r *result) string {
		h := of(r).Up[metricSLI]
		return fmt.Sprintf("%s (%d)", ms(h.mean()), h.Count)
	})
	t.row("median / slowest", results, func(r *result) string { return spread(of(r).SLI) })
	t.row("mean, less the fractions of a second that creations' time stamps lack", results, func(r *result) string {
		return ms(of(r).Up[metricSLI].mean() - of(r).Fraction)
	})
	t.row("pod_start_duration: mean", results, func(r *result) string { return ms(of(r).Up[metricStart].mean()) })
	t.row("create until Ready, a client's view: median / slowest", results, func(r *result) string { return spread(of(r).Ready) })
	t.row("**the three calls together**: mean", results, func(r *result) string { return ms(of(r).calls()) })
	for _, name := range starting {
		t.row(name+": mean, p50 / p99", results, func(r *result) string { return quantiles(of(r).Up[operation(name)]) })
	}
	t.row("run_podsandbox_duration: mean, p50 / p99", results, func(r *result) string { return quantiles(of(r).Up[metricSandbox]) })
	t.row("processor time of the runtime for a start", results, func(r *result) string { return ms(of(r).CPU) })
	t.row("delete until gone, a client's view: median / slowest", results, func(r *result) string { return spread(of(r).Gone) })
	for _, name := range ending {
		t.row(name+": mean, p50 / p99", results, func(r *result) string { return quantiles(of(r).Down[operation(name)]) })
	}
	return t.text.String()
}

// atRest is the table of what the runtime costs with pods that do nothing.
func atRest(o options, results []*result) string {
	t := newTable(fmt.Sprintf("%d pods at rest", o.pods), results)
	t.row("processes of the runtime, without pods / with them", results, func(r *result) string {
		return fmt.Sprintf("%d / %d", r.ProcessesBefore, r.Processes)
	})
	t.row("their PSS, without pods / with them", results, func(r *result) string {
		return mb(r.MemoryBefore) + " / " + mb(r.Memory) + " MB"
	})
	t.row("PSS for each pod", results, func(r *result) string {
		return fmt.Sprintf("%.2f MB", float64(r.Memory-r.MemoryBefore)/float64(r.PodCount)/(1<<20))
	})
	t.row("processes of sandboxes, and their PSS", results, func(r *result) string {
		return fmt.Sprintf("%d, %s MB", r.Sandboxes, mb(r.SandboxMemory))
	})
	t.row(fmt.Sprintf("processor, over %d s", o.rest), results, func(r *result) string { return fmt.Sprintf("%.2f %%", 100*r.CPU) })
	seen := map[string]bool{}
	for _, r := range results {
		for _, name := range r.Rest.names() {
			if !seen[name] {
				seen[name] = true
				t.row(name+": mean, calls", results, func(r *result) string {
					h := r.Rest[operation(name)]
					return fmt.Sprintf("%s ms, %d", tenths(h.mean()), h.Count)
				})
			}
		}
	}
	return t.text.String()
}

func ms(seconds float64) string {
	if math.IsNaN(seconds) {
		return "–"
	}
	return fmt.Sprintf("%.0f", 1000*seconds)
}

func tenths(seconds float64) string {
	if math.IsNaN(seconds) {
		return "–"
	}
	return fmt.Sprintf("%.1f", 1000*seconds)
}

func mb(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }

// spread is the median and the greatest of sorted values.
func spread(sorted []float64) string {
	if len(sorted) == 0 {
		return "–"
	}
	return ms(sorted[len(sorted)/2]) + " / " + ms(sorted[len(sorted)-1])
}

func quantiles(h histogram) string {
	if h.Count == 0 {
		return "–"
	}
	return fmt.Sprintf("%s, %s / %s", tenths(h.mean()), ms(h.quantile(0.5)), ms(h.quantile(0.99)))
}

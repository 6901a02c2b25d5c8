package main

import (
	"slices"
	"sync"
	"time"
)

// samples collects the durations of calls by name; several goroutines may add.
type samples struct {
	mu  sync.Mutex
	all map[string][]time.Duration
}

func newSamples() *samples { return &samples{all: map[string][]time.Duration{}} }

// time makes a call and keeps how long it took, unless it failed.
func (s *samples) time(name string, call func() error) error {
	began := time.Now()
	if err := call(); err != nil {
		return err
	}
	took := time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = append(s.all[name], took)
	return nil
}

// summary is what is told of one kind of call, in milliseconds.
type summary struct {
	Count  int     `json:"count"`
	Median float64 `json:"median_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

func (s *samples) summaries() map[string]summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]summary{}
	for name, d := range s.all {
		out[name] = summarize(d)
	}
	return out
}

func summarize(d []time.Duration) summary {
	sorted := slices.Sorted(slices.Values(d))
	return summary{
		Count: len(sorted), Median: quantile(sorted, 0.5), P99: quantile(sorted, 0.99), Max: quantile(sorted, 1),
	}
}

// quantile is the smallest value that at least the share q of all do not exceed.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return float64(sorted[min(max(i, 0), len(sorted)-1)]) / float64(time.Millisecond)
}

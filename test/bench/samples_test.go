package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := 1; i <= 200; i++ {
		d = append(d, time.Duration(201-i)*time.Millisecond)
	}
	s := summarize(d)
	if s.Count != 200 || s.Median != 100 || s.P99 != 198 || s.Max != 200 {
		t.Errorf("summary is %+v", s)
	}
	if s := summarize(d[:1]); s.Median != 200 || s.P99 != 200 {
		t.Errorf("summary of one is %+v", s)
	}
	if s := summarize(nil); s != (summary{}) {
		t.Errorf("summary of none is %+v", s)
	}
}

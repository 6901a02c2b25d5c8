package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	d := New(&out)
	for _, p := range []*nodev1.Progress{
		{Message: "latest: Pulling from library/x"},
		{Layer: "aaa", Status: "Waiting", Total: 10},
		{Layer: "aaa", Status: "Downloading", Current: 1, Total: 10},
		{Layer: "aaa", Status: "Downloading", Current: 5, Total: 10},
		{Layer: "bbb", Status: "Already exists"},
		{Layer: "aaa", Status: "Pull complete", Current: 10, Total: 10},
		{Message: "Status: \x1b[31mdone"},
		{Image: &nodev1.ImageResult{Id: "x"}},
	} {
		d.Update(p)
	}
	d.Flush()
	want := "latest: Pulling from library/x\naaa: Downloading\nbbb: Already exists\naaa: Pull complete\nStatus: \uFFFD[31mdone\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestBars(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(100, 0)
	d := &Display{out: &out, fancy: true, width: 100, height: 24, byName: map[string]*layer{}, now: func() time.Time { return now }}
	d.Update(&nodev1.Progress{Layer: "aaa", Status: "Downloading", Total: 10_000_000})
	d.Update(&nodev1.Progress{Layer: "bbb", Status: "Waiting", Total: 10_000_000})
	now = now.Add(time.Second)
	d.Update(&nodev1.Progress{Layer: "aaa", Status: "Downloading", Current: 5_000_000, Total: 10_000_000})
	last := out.String()[strings.LastIndex(out.String(), "aaa: "):]
	for _, want := range []string{"[===============>", "5MB/10MB  5MB/s", "bbb: Waiting", "Total", "5MB/20MB  5MB/s"} {
		if !strings.Contains(last, want) {
			t.Errorf("drew %q, want %q in it", last, want)
		}
	}
	d.Update(&nodev1.Progress{Layer: "aaa", Status: "Pull complete", Current: 10_000_000, Total: 10_000_000})
	d.Update(&nodev1.Progress{Layer: "bbb", Status: "Pull complete", Current: 10_000_000, Total: 10_000_000})
	out.Reset()
	d.Flush()
	if got := out.String(); strings.Contains(got, "Total") || strings.Count(got, "Pull complete") != 2 {
		t.Errorf("drew %q at last", got)
	}
}

// TestManyLayers draws no more lines than a terminal has.
func TestManyLayers(t *testing.T) {
	var out bytes.Buffer
	d := &Display{out: &out, fancy: true, width: 80, height: 10, byName: map[string]*layer{}, now: time.Now}
	for i := range 50 {
		d.Update(&nodev1.Progress{Layer: strings.Repeat("x", i+1), Status: "Already exists"})
	}
	if n := len(d.lines()); n > 9 {
		t.Errorf("%d lines", n)
	}
}

package network

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkAttach measures a burst of pods that stay: no namespace is being torn
// down meanwhile, which makes the kernel hold rtnl for long.
func BenchmarkAttach(b *testing.B) {
	for _, inProcess := range []bool{true, false} {
		b.Run(fmt.Sprintf("inprocess=%v", inProcess), func(b *testing.B) {
			f := newFixture(b, func(c *Config) { c.InProcess = inProcess })
			var add time.Duration
			for i := range b.N {
				netns := newNetNS(b)
				t0 := time.Now()
				if _, err := f.Attach(b.Context(), Attachment{ID: fmt.Sprintf("bench-%d", i), NetNS: netns}); err != nil {
					b.Fatal(err)
				}
				add += time.Since(t0)
			}
			b.ReportMetric(float64(add.Microseconds())/float64(b.N), "µs/attach")
		})
	}
}

// BenchmarkAttachDetach measures one pod after another, alone and beside
// others, in process and with the real plugins.
func BenchmarkAttachDetach(b *testing.B) {
	for _, inProcess := range []bool{true, false} {
		for _, others := range []int{0, 100} {
			b.Run(fmt.Sprintf("inprocess=%v/others=%d", inProcess, others), func(b *testing.B) {
				f := newFixture(b, func(c *Config) { c.InProcess = true })
				for i := range others {
					if _, err := f.Attach(b.Context(), Attachment{ID: fmt.Sprintf("other-%d", i), NetNS: newNetNS(b)}); err != nil {
						b.Fatal(err)
					}
				}
				f.cfg.InProcess = inProcess
				f.reopen(b)
				var add, del time.Duration
				for b.Loop() {
					netns := newNetNS(b)
					t0 := time.Now()
					if _, err := f.Attach(b.Context(), Attachment{ID: "bench", NetNS: netns}); err != nil {
						b.Fatal(err)
					}
					t1 := time.Now()
					if err := f.Detach(b.Context(), "bench", netns); err != nil {
						b.Fatal(err)
					}
					add, del = add+t1.Sub(t0), del+time.Since(t1)
					unpin(b, netns)
				}
				b.ReportMetric(float64(add.Microseconds())/float64(b.N), "µs/attach")
				b.ReportMetric(float64(del.Microseconds())/float64(b.N), "µs/detach")
				for i := range others {
					if err := f.Detach(b.Context(), fmt.Sprintf("other-%d", i), ""); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

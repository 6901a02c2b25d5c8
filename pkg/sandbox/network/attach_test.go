package network

import (
	"net/netip"
	"testing"
	"time"
)

func TestDefaultNetworkConnectsPods(t *testing.T) {
	f := newFixture(t, nil)
	if err := f.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b := newNetNS(t), newNetNS(t)
	ra, err := f.Attach(t.Context(), Attachment{ID: "pod-a", Namespace: "ns", Name: "a", UID: "u", NetNS: a})
	if err != nil {
		t.Fatal(err)
	}
	// No waiting anywhere here: the network must carry the first packet.
	listen(t, a, ":8080")
	start := time.Now()
	for _, ip := range ra.IPs {
		if _, err := dial(t, "", ip.String(), 8080); err != nil {
			t.Errorf("host to %s: %v", ip, err)
		}
		t.Logf("host to %s after %v", ip, time.Since(start))
	}
	rb, err := f.Attach(t.Context(), Attachment{ID: "pod-b", NetNS: b})
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	for i, ip := range ra.IPs {
		seen, err := dial(t, b, ip.String(), 8080)
		if err != nil || seen != rb.IPs[i].String() {
			t.Errorf("pod to %s: seen as %s, %v", ip, seen, err)
		}
		t.Logf("pod to %s after %v", ip, time.Since(start))
	}
	if len(ra.IPs) != 2 || !ra.IPs[0].Is4() || !ra.IPs[1].Is6() || ra.IPs[0] == rb.IPs[0] {
		t.Errorf("addresses %v and %v", ra.IPs, rb.IPs)
	}
	if !f.cfg.DefaultNetwork.Subnets[0].Contains(ra.IPs[0]) || ra.IPs[0] == netip.MustParseAddr("10.99.1.1") {
		t.Errorf("address %v", ra.IPs[0])
	}
	for id, netns := range map[string]string{"pod-b": b, "pod-a": a} {
		for range 2 {
			if err := f.Detach(t.Context(), id, netns); err != nil {
				t.Fatal(err)
			}
		}
		f.wantClean(t, id)
	}
	// Both namespaces are still there, so the pairs are the reaper's.
	eventually(t, "reaping", func() bool { return ports(t, f.cfg.DefaultNetwork.Bridge) == 0 })
}

func BenchmarkAttachDetach(b *testing.B) {
	for _, inProcess := range []bool{true, false} {
		name := "exec"
		if inProcess {
			name = "inprocess"
		}
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, func(c *Config) { c.InProcess = inProcess })
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
		})
	}
}

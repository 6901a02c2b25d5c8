package layer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func benchmark(b *testing.B, entries []entry) {
	requireRoot(b)
	data := pack(b, entries...)
	top := b.TempDir()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		d := filepath.Join(top, fmt.Sprint(n))
		must(b, os.Mkdir(d, 0o700))
		if _, err := Apply(b.Context(), bytes.NewReader(data), d, Options{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, os.RemoveAll(d))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n*len(entries)), "µs/entry")
}

// BenchmarkSmallFiles is what an interpreter's packages look like.
func BenchmarkSmallFiles(b *testing.B) {
	body := strings.Repeat("body", 500)
	var entries []entry
	for i := range 200 {
		entries = append(entries, dir(fmt.Sprintf("usr/lib/package%d", i)))
		for j := range 25 {
			entries = append(entries, file(fmt.Sprintf("usr/lib/package%d/file%d", i, j), body))
		}
	}
	benchmark(b, entries)
}

// BenchmarkLargeFile is what a model looks like.
func BenchmarkLargeFile(b *testing.B) {
	benchmark(b, []entry{file("model", strings.Repeat("weights!", 8<<20))})
}

func BenchmarkZeros(b *testing.B) {
	benchmark(b, []entry{file("disk", strings.Repeat("\x00", 64<<20))})
}

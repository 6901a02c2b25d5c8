package specs

import (
	"encoding/json"
	"fmt"
	"io"
)

// Parse reads the specs of a report, those that were not selected left out.
func Parse(r io.Reader) ([]Spec, error) {
	var suites []struct{ SpecReports []Spec }
	if err := json.NewDecoder(r).Decode(&suites); err != nil {
		return nil, fmt.Errorf("decode report: %w", err)
	}
	specs := []Spec{}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			selected := s.State != "skipped" || s.Failure.Message != ""
			if s.LeafNodeType == "It" && selected || s.Failed() {
				specs = append(specs, s)
			}
		}
	}
	return specs, nil
}

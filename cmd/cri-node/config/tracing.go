package config

import (
	"errors"
	"net"
	"strconv"
)

// Tracing is the section about OpenTelemetry.
type Tracing struct {
	// Endpoint is HOST:PORT, or empty.
	Endpoint string `toml:"endpoint"`
	Insecure bool   `toml:"insecure"`
	// TLSCAFile is an absolute path or empty.
	TLSCAFile              string `toml:"tls_ca_file"`
	SamplingRatePerMillion int    `toml:"sampling_rate_per_million"`
}

func (v *validator) tracing(t Tracing) {
	const million = 1_000_000
	v.require(t.SamplingRatePerMillion >= 0 && t.SamplingRatePerMillion <= million,
		"tracing.sampling_rate_per_million", "is %d, want 0 to %d", t.SamplingRatePerMillion, million)
	if t.TLSCAFile != "" {
		v.check("tracing.tls_ca_file", absolute(t.TLSCAFile))
		v.require(!t.Insecure, "tracing.tls_ca_file", "is of no use with tracing.insecure")
	}
	if t.Endpoint != "" {
		v.require(collectorAddress(t.Endpoint) == nil, "tracing.endpoint", "is %q, want HOST:PORT, without a scheme", t.Endpoint)
	}
}

func collectorAddress(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return errors.New("no host or no port")
	}
	return nil
}

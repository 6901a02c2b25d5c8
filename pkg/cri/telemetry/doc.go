// Package telemetry measures what the daemon does, for Prometheus. docs/metrics.md
// says what each metric means.
//
// The registry is its own: nothing is global, and what a library registers with
// Prometheus' default registry is not shown. All methods may be called of a nil
// *Metrics, which measures nothing, and by many at once.
//
// It is not the source of CRI's statistics of containers and pods: kubelet asks
// for those by ListPodSandboxMetrics.
package telemetry

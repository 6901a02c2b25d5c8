// Package monitor is the per-node monitor.
package monitor

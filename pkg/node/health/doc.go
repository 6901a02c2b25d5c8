// Package health probes a container again and again, and says whether it is well.
//
//	             a probe passes              Retries probes fail in a row
//	starting ──────────────────────► healthy ─────────────────────────► unhealthy
//	    │                               ▲                                   │
//	    │                               └───────────────────────────────────┘
//	    │                                        a probe passes
//	    └─────────────────────────────────────────────────────────────► unhealthy
//	      Retries probes fail in a row, those of the start period not counted
//
// The meaning is docker's. How a probe is run is the caller's business. A Checker
// keeps its last results in memory, and tells them: the next Checker of the same run
// can go on from there.
package health

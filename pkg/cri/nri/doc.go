// Package nri connects plugins of the Node Resource Interface: programs that
// hear of each step in the life of pods and containers, may change the OCI
// spec of a container before it is made, and may change limits later.
//
// The wire, the plugins and their order belong to containerd/nri's adaptation
// package. This package keeps account of what plugins have been told, puts
// pods and containers into NRI's messages, and applies what plugins ask for to
// an OCI spec. What it needs of the node it asks of a Node.
//
// # What plugins know
//
// A table holds each pod and container that plugins have been told of, with
// the last step told. A step is told once, by whoever comes first: a call, or
// the notice of an exit. Synchronize sends the table, not the node's own
// lists, so that a plugin that connects meanwhile neither misses a step nor
// hears of one twice. The table is filled from the node's records when the
// daemon starts; nothing of it is on disk, because a plugin that comes back is
// synchronized anew.
//
//	CreateContainer   StartContainer   (exit)        (removal)
//	      │                 │              │              │
//	      ▼                 ▼              ▼              ▼
//	   created ─────────► started ─────► stopped ─────► not in the table
//	      │  failed start ──┘               ▲
//	      └───────── killed ────────────────┘
//
// A pod goes from started to stopped and out. What failed after it was told is
// told to be removed.
//
// # Locks
//
// In this order, each held only while the next is taken:
//
//  1. object.op, one for each pod and container: its steps are told one after
//     another. It is waited for with a context.
//  2. Adaptation.BlockPluginSync: a step is entered in the table and told under
//     one block. It is never held over work of the OCI runtime: a plugin
//     that waits to connect holds up whoever takes a block after it. It is not
//     taken twice by one call for the same reason.
//  3. the adaptation's own lock, for as long as plugins answer; the request
//     timeout bounds that, and closes the plugin that does not.
//  4. Manager.mu, which guards the table for the moment of a look or a change.
//
// Updates that a plugin asks for by itself take none of the first three: it may
// ask from within the handling of a step.
//
// # What it costs
//
// Without a plugin a step is an entry in the table. Nothing is translated, no
// spec is copied or read.
//
// # What it is not for
//
// It decides nothing about pods: a refusal by a plugin is an error for the
// caller to undo. It does not keep plugins from anything: they are as powerful
// as root.
package nri

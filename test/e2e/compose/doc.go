// Package compose brings up a shop of three services with `cri-node compose`, as a
// person would: nginx before a program in Go before PostgreSQL, all real, in images
// that are built here on Debian. It looks at what the commands print and what the
// shop answers, kills the daemon, and takes everything down again.
package compose

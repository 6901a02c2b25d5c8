// Package compose is `cri-node compose`: the containers of one Compose file, made,
// listed, followed and removed together.
//
// There is no daemon of compose and no file of its own: what belongs to a project
// is told by labels, docker compose's own, so that tools which look for them find
// them. A service is converged: a container whose configuration hash is that of
// the file stays, others are replaced, in the order of depends_on. What has to
// outlive the command (restart policies, health checks, names among containers)
// is the daemon's.
//
//	load.go       files, profiles and flags -> types.Project
//	request.go    a service -> a request to the daemon
//	files.go      secrets and configs, copied into a container before it starts
//	project.go    the containers there are, and their labels
//	order.go      who waits for whom
//	converge.go   one service: what to keep, replace, make and start
//	up.go, down.go, commands.go, logs.go    the verbs
package compose

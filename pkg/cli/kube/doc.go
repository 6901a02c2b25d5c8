// Package kube is the bridge between containers of people and manifests of
// Kubernetes: `play kube` runs Pods and Deployments of a file on this machine
// without a cluster, `generate kube` writes manifests of containers that are here.
//
//	read.go       documents of a file -> objects
//	pod.go        a Pod -> requests to the daemon, container by container
//	security.go   security contexts and resources
//	env.go        variables, from ConfigMaps and Secrets too
//	volumes.go    volumes and the files of ConfigMaps and Secrets
//	play.go       the verb that makes and starts them, or takes them down
//	down.go       how they are taken down
//	generate.go   the way back: which containers, and what makes objects of them
//	describe.go   a container -> what is in a Pod
//	validate.go   what can be said of a Pod alone
//
// The containers of a Pod are in one pod here as well: the first makes it, the
// others join it. What a kubelet would do later (probes, rollouts, rescheduling)
// nobody does: a restart policy is the daemon's, a liveness probe that runs a
// command becomes a health check, and the rest is said to be left out.
package kube

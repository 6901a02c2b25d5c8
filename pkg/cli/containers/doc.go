// Package containers has the verbs for containers: run, ps, exec, logs, cp and
// the rest, each a request or two to the daemon.
//
// What docker's flags mean is in pure functions: Options.Request turns them into
// a CreateRequest without talking to anybody, for run, create and Compose files
// alike. The verbs themselves are in files named after them.
package containers

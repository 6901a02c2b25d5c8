// Package early holds the commands of cri-node that must be light: it runs them
// while the program is being initialised, before the packages they do not need.
//
// The libraries of the daemon build tables and compile regular expressions
// when a process starts: 10 ms and 4 MB that every process of this program
// would pay. The linker orders initialisation by import path, as soon as all
// imports of a package are initialised, so that a package of a few imports comes
// before most others. What it runs ends the process and never gets to main.
//
//	runtime, os, net … --> early.init --monitor--> monitor.Main --> exit
//	                           |------version--> exit
//	                           '--> grpc, prometheus, sigstore … --> main
//
// It is the one place with an init function. It may import nothing but the
// standard library, without net/http, and the monitor: each import delays it
// until that is initialised (test/architecture holds it).
//
// A command that needs flags, configuration or the daemon's socket does not
// belong here.
package early

// Package config reads and checks the configuration of the daemon.
//
// One file is the source of truth: default.toml, embedded here, holds every
// key with its default and its documentation. Default parses it, WriteDefault
// prints it, and a test holds it against the structs. Load lays the files of
// the machine over it, then flags:
//
//	default.toml -> config.toml -> config.toml.d/*.toml -> overrides
//
// Every value remembers the file and line that set it, so that Validate can say
// where a mistake is. Parsing is strict: an unknown key is an error.
//
// A Config is plain data. It has no locks; treat a loaded one as read-only and
// load another to change it. Nothing below cmd imports this package: serve
// translates it into the options of each package.
package config

// Package network connects pods to CNI networks.
//
// The network is the first valid file of the configuration directory, or,
// where that directory holds none, an embedded one: a bridge with IPv4 and
// IPv6, so that a fresh machine has working pods. Everything goes through
// libcni. The plugins bridge (with host-local), loopback and portmap run
// inside this process where Config.InProcess allows it and the configuration
// uses nothing but what is implemented here; they leave the same addresses,
// files, links and results as the real ones, so that either can undo the work
// of the other. Anything else is executed from Config.PluginDirs.
//
// # States of an attachment
//
//	        Attach: intent is written          ADD succeeds
//	(none) ---------------------------> adding --------------> attached
//	   ^                                  |                       |
//	   |  DEL succeeds: intent removed    | ADD fails: DEL        | Detach: DEL
//	   +----------------------------------+-----------------------+
//	   |                                  | DEL fails             | DEL fails
//	   |            Detach or GC          v                       |
//	   +-------------------------------- debt <-------------------+
//
// adding, attached and debt look alike on disk: an intent exists. A crash at
// any point therefore leaves something to find, and the way back is always the
// same DEL, which CNI demands to be idempotent.
//
// # On disk
//
//	<CacheDir>/intents/<id>.json   record: attachment and the conflist it used
//	<CacheDir>/intents/<id>.lock   flock that plugin processes inherit
//	<CacheDir>/results/…           libcni's cached results, in its own format
//	/var/lib/cni/networks/…        host-local's files, in its own format
//
// The conflist is part of the intent, so DEL does what ADD did even when the
// configuration has changed or gone. A plugin process that outlives this one
// keeps its flock; Detach waits for it, and kills it in the end, because ADD
// and DEL of one attachment must not run at the same time.
//
// # Locks
//
// One lock for each attachment id orders Attach, Detach and GC of that id. A
// semaphore limits how many in-process plugins use netlink at once: the kernel
// serialises them anyway (rtnl), and a crowd of waiters only costs. The
// configuration is an immutable value behind an atomic pointer: Status waits
// for nobody.
//
// # Goroutines
//
// Between Start and Close there are four: one watches the configuration
// directory, one deletes interfaces that a Detach has retired and whose
// namespace did not take them along within a second (Detach therefore expects
// its caller to drop the pod's namespace next), one hears of changes of
// nftables, and one then puts the rules of host ports back that somebody has
// removed.
//
// # Limits
//
// Port mappings are made by the real portmap plugin. It reaches a pod through
// any address of the host, 127.0.0.1 included (route_localnet), but not
// through ::1: Linux has no route_localnet for IPv6.
//
// Where iptables is the legacy one (`iptables -V`), whose rules nftables neither
// shows nor hears of, host ports that somebody flushed come back when nftables
// changes for another reason or the daemon starts, which ask the plugin.
//
// Not for pods on the host's network: they need no attachment at all.
package network

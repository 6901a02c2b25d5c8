// Package notify tells the service manager how the daemon is doing, by the
// protocol of sd_notify(3), and feeds its watchdog.
//
// New takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of the environment, because
// OCI runtimes that inherit a notify socket hand it on to the container. A
// daemon that no service manager started gets a Notifier whose calls do nothing.
//
//	starting -> Ready -> (Reloading -> Ready)* -> Stopping
//
// A Notifier has no locks; its socket takes concurrent writers.
package notify

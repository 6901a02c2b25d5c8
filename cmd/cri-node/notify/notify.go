package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// sendTimeout bounds one message; the service manager may be stuck, and we
// must not be because of it.
const sendTimeout = 5 * time.Second

// Notifier sends the daemon's state to the service manager.
type Notifier struct {
	socket   *net.UnixAddr // nil without a service manager
	watchdog time.Duration // 0 without a watchdog
}

// New reads and removes what the service manager put into the environment. Call
// it before anything is executed.
func New() (*Notifier, error) {
	n := &Notifier{}
	if path := os.Getenv("NOTIFY_SOCKET"); path != "" {
		n.socket = &net.UnixAddr{Name: path, Net: "unixgram"}
	}
	interval, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		err = fmt.Errorf("read watchdog interval: %w", err)
	}
	n.watchdog = interval
	return n, errors.Join(err, os.Unsetenv("NOTIFY_SOCKET"))
}

// Ready says that requests are served, first or again.
func (n *Notifier) Ready() error { return n.send(daemon.SdNotifyReady) }

// Stopping says that the daemon is on its way out.
func (n *Notifier) Stopping() error { return n.send(daemon.SdNotifyStopping) }

// Reloading says that the configuration is being read again; Ready ends it.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read monotonic clock: %w", err)
	}
	return n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// RunWatchdog feeds the watchdog until ctx ends, at half its interval, and only
// as long as probe succeeds: a daemon that cannot answer is then restarted. The
// caller owns the goroutine. Without a watchdog it returns at once.
//
// Errors of the probe go to report, which may be nil.
func (n *Notifier) RunWatchdog(ctx context.Context, probe func(context.Context) error, report func(error)) {
	if n.socket == nil || n.watchdog == 0 {
		return
	}
	ticker := time.NewTicker(n.watchdog / 2)
	defer ticker.Stop()
	for {
		if err := n.feed(ctx, probe); err != nil && report != nil && ctx.Err() == nil {
			report(err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Notifier) feed(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, n.watchdog/2)
	defer cancel()
	if err := probe(ctx); err != nil {
		return fmt.Errorf("probe for the watchdog: %w", err)
	}
	return n.send(daemon.SdNotifyWatchdog)
}

func (n *Notifier) send(state string) error {
	if n.socket == nil {
		return nil
	}
	conn, err := net.DialUnix(n.socket.Net, nil, n.socket)
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = conn.Write([]byte(state))
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

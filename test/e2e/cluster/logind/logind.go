package logind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	name   = "org.freedesktop.login1"
	object = dbus.ObjectPath("/org/freedesktop/login1")
	iface  = "org.freedesktop.login1.Manager"
)

// delay is the longest that logind waits for those who hold locks.
const delay = 5 * time.Minute

const configuration = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
`

// Logind is a bus with the manager of logins on it.
type Logind struct {
	bus   *exec.Cmd
	conn  *dbus.Conn
	locks chan *Lock
}

// Lock is one that somebody has taken.
type Lock struct {
	Who, What, Mode string
	held            *os.File // reads the end once nobody has sent
	sent            *os.File // whose copy the holder gets with the answer
}

// manager is what is exported.
type manager struct{ locks chan *Lock }

// Inhibit is org.freedesktop.login1.Manager.Inhibit.
func (m manager) Inhibit(what, who, _, mode string) (dbus.UnixFD, *dbus.Error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	m.locks <- &Lock{Who: who, What: what, Mode: mode, held: os.NewFile(uintptr(ends[0]), "lock"), sent: os.NewFile(uintptr(ends[1]), "lock")}
	return dbus.UnixFD(ends[1]), nil
}

// properties is org.freedesktop.DBus.Properties.
type properties struct{}

// Get knows one property.
func (properties) Get(of, property string) (dbus.Variant, *dbus.Error) {
	if of != iface || property != "InhibitDelayMaxUSec" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{property})
	}
	return dbus.MakeVariant(uint64(delay.Microseconds())), nil
}

// Start starts a bus at the path of a socket, with the manager on it.
func Start(ctx context.Context, socket string) (*Logind, error) {
	config := filepath.Join(filepath.Dir(socket), "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, socket), 0o644); err != nil {
		return nil, err
	}
	l := &Logind{bus: exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address=1"), locks: make(chan *Lock, 8)}
	out, err := l.bus.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.bus.Stderr = os.Stderr
	if err := l.bus.Start(); err != nil {
		return nil, fmt.Errorf("start bus: %w", err)
	}
	// It listens once it has said where.
	address, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		err = l.serve(ctx, address[:len(address)-1])
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: %w", err), l.Close())
	}
	return l, nil
}

func (l *Logind) serve(ctx context.Context, address string) (err error) {
	if l.conn, err = dbus.Connect(address, dbus.WithContext(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	if err := l.conn.Export(manager{l.locks}, object, iface); err != nil {
		return err
	}
	if err := l.conn.Export(properties{}, object, "org.freedesktop.DBus.Properties"); err != nil {
		return err
	}
	reply, err := l.conn.RequestName(name, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("name %s is taken", name)
	}
	return err
}

// Lock waits for the next lock that somebody takes.
func (l *Logind) Lock(ctx context.Context) (*Lock, error) {
	select {
	case lock := <-l.locks:
		return lock, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("nobody has taken a lock: %w", ctx.Err())
	}
}

// Shutdown says that the machine is about to be shut down, or that it is not after
// all.
func (l *Logind) Shutdown(begins bool) error {
	return l.conn.Emit(object, iface+".PrepareForShutdown", begins)
}

// Released waits until the lock is let go of. The holder must have got it, as is
// the case once it has been seen to go on.
func (l *Lock) Released(ctx context.Context) error {
	defer l.held.Close()
	if err := l.sent.Close(); err != nil {
		return err
	}
	if limit, ok := ctx.Deadline(); ok {
		if err := l.held.SetReadDeadline(limit); err != nil {
			return err
		}
	}
	if _, err := l.held.Read(make([]byte, 1)); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the lock of %s is held: %w", l.Who, err)
	}
	return nil
}

// Close ends the bus.
func (l *Logind) Close() error {
	var err error
	if l.conn != nil {
		err = l.conn.Close()
	}
	err = errors.Join(err, l.bus.Process.Kill())
	_ = l.bus.Wait() // it was killed
	return err
}

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ruleWatch tells when somebody has taken something out of nftables, to which
// the iptables of today write as well. It cannot see the older, legacy one.
type ruleWatch struct {
	socket *os.File
	// changed has one element from a change until somebody takes notice.
	changed chan struct{}
}

// newRuleWatch subscribes to changes in the network namespace of the caller.
func newRuleWatch() (*ruleWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	socket := os.NewFile(uintptr(fd), "nfnetlink")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return nil, errors.Join(fmt.Errorf("watch nftables: %w", os.NewSyscallError("bind", err)), socket.Close())
	}
	return &ruleWatch{socket: socket, changed: make(chan struct{}, 1)}, nil
}

// run reads until close.
func (w *ruleWatch) run() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.socket.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		// What did not fit into the queue may have been a removal.
		if err != nil || removes(buf[:n]) {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

func (w *ruleWatch) close() error { return w.socket.Close() }

// removes reports whether netlink messages tell of a table, chain or rule that
// has gone.
func removes(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if kind>>8 == unix.NFNL_SUBSYS_NFTABLES {
			switch kind & 0xff {
			case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
				return true
			}
		}
		length = align(length)
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return false
		}
		b = b[length:]
	}
	return false
}

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// rule is what tells one rule of nftables from another.
type rule struct {
	handle  uint64
	comment string
}

const (
	// A part of a dump is no longer than that.
	dumpSize = 32 << 10
	// What precedes the attributes of a message of nftables: family, version and
	// resource.
	nfgenSize = 4
	// The type of an attribute, without the flags.
	attributeMask = 0x3fff
)

// listRules lists the rules of a chain of the inet family; a chain that is not
// there has none. It leaves out what the rules do: to decode that allocates 9 KB
// for each, and there are two of every pod. A list is not whole if the rules have
// changed meanwhile.
func listRules(table, chain string) (rules []rule, whole bool, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, false, os.NewSyscallError("socket", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Sendto(fd, listRequest(table, chain), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, false, os.NewSyscallError("sendto", err)
	}
	whole = true
	buf := make([]byte, dumpSize)
	for {
		n, _, flags, _, err := unix.Recvmsg(fd, buf, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, false, os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			return nil, false, errors.New("a message of nftables is too long")
		}
		part := rulePart{rules: rules, whole: whole}
		if err := part.parse(buf[:n]); errors.Is(err, unix.ENOENT) {
			return nil, true, nil
		} else if err != nil {
			return nil, false, err
		}
		if rules, whole = part.rules, part.whole; part.last {
			return rules, whole, nil
		}
	}
}

// listRequest is a message that asks for the rules of a chain.
func listRequest(table, chain string) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, 128)
	b = append(b, unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0)
	for _, a := range []struct {
		kind  uint16
		value string
	}{{unix.NFTA_RULE_TABLE, table}, {unix.NFTA_RULE_CHAIN, chain}} {
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(a.value)+1))
		b = binary.NativeEndian.AppendUint16(b, a.kind)
		b = append(append(b, a.value...), 0)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	return b
}

// align is where what follows n bytes of netlink begins.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// rulePart collects the rules of one part of a dump.
type rulePart struct {
	rules       []rule
	whole, last bool
}

func (p *rulePart) parse(b []byte) error {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return fmt.Errorf("parse a list of rules: a message of %d bytes in %d", length, len(b))
		}
		if binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_DUMP_INTR != 0 {
			p.whole = false
		}
		body := b[unix.SizeofNlMsghdr:length]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			p.last = true
			return nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return errors.New("parse a list of rules: an error without a number")
			}
			return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:
			r, err := parseRule(body)
			if err != nil {
				return err
			}
			p.rules = append(p.rules, r)
		}
		b = b[min(align(length), len(b)):]
	}
	return nil
}

func parseRule(b []byte) (r rule, err error) {
	if len(b) < nfgenSize {
		return r, fmt.Errorf("parse a rule: %d bytes", len(b))
	}
	for b = b[nfgenSize:]; len(b) >= unix.SizeofNlAttr; {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return r, fmt.Errorf("parse a rule: an attribute of %d bytes in %d", length, len(b))
		}
		value := b[unix.SizeofNlAttr:length]
		switch binary.NativeEndian.Uint16(b[2:]) & attributeMask {
		case unix.NFTA_RULE_HANDLE:
			if len(value) != 8 {
				return r, fmt.Errorf("parse a rule: a handle of %d bytes", len(value))
			}
			r.handle = binary.BigEndian.Uint64(value)
		case unix.NFTA_RULE_USERDATA:
			// What is returned must not keep the buffer.
			r.comment, _ = userdata.GetString(bytes.Clone(value), userdata.TypeComment)
		}
		b = b[min(align(length), len(b)):]
	}
	return r, nil
}

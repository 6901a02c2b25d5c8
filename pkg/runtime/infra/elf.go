package infra

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
)

// loadAddress is where the executable's one segment is mapped, and headerSize
// what comes before its code there: an ELF header and one program header.
const (
	loadAddress = 0x400000
	headerSize  = 64 + 56
)

// The program, the same on every architecture:
//
//	rt_sigaction(SIGCHLD, {handler: SIG_IGN, flags: SA_NOCLDWAIT}, NULL, 8)
//	for { pause() }
//
// A parent that ignores SIGCHLD has its children reaped by the kernel, those
// that are orphaned to it later included (sigaction(2)). SIGTERM and its like
// have no effect on process 1 of a pid namespace without a handler
// (pid_namespaces(7)); the pod's end is a SIGKILL from outside.
var machineCode = map[string]struct {
	machine uint16 // e_machine
	code    []byte
}{
	"amd64": {62, []byte{
		0xb8, 0x0d, 0x00, 0x00, 0x00, // mov eax, 13 (rt_sigaction)
		0xbf, 0x11, 0x00, 0x00, 0x00, // mov edi, 17 (SIGCHLD)
		0x48, 0x8d, 0x35, 0x17, 0x00, 0x00, 0x00, // lea rsi, [rip+23] (act)
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // again: mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp again
		0x90, 0x90, 0x90, 0x90, // align act to 8
		// act: struct kernel_sigaction
		0x01, 0, 0, 0, 0, 0, 0, 0, // handler SIG_IGN
		0x02, 0, 0, 0, 0, 0, 0, 0, // flags SA_NOCLDWAIT
		0, 0, 0, 0, 0, 0, 0, 0, // restorer
		0, 0, 0, 0, 0, 0, 0, 0, // mask
	}},
	"arm64": {183, []byte{
		0xc8, 0x10, 0x80, 0xd2, // mov x8, #134 (rt_sigaction)
		0x20, 0x02, 0x80, 0xd2, // mov x0, #17 (SIGCHLD)
		0x81, 0x01, 0x00, 0x10, // adr x1, act (+48)
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0
		0x03, 0x01, 0x80, 0xd2, // mov x3, #8
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x00, 0x00, 0x80, 0xd2, // again: mov x0, #0
		0x01, 0x00, 0x80, 0xd2, // mov x1, #0
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0
		0x03, 0x00, 0x80, 0xd2, // mov x3, #0
		0x28, 0x09, 0x80, 0xd2, // mov x8, #73 (ppoll: arm64 has no pause)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xfa, 0xff, 0xff, 0x17, // b again
		0x1f, 0x20, 0x03, 0xd5, // nop: align act to 8
		// act
		0x01, 0, 0, 0, 0, 0, 0, 0, // handler SIG_IGN
		0x02, 0, 0, 0, 0, 0, 0, 0, // flags SA_NOCLDWAIT
		0, 0, 0, 0, 0, 0, 0, 0, // restorer
		0, 0, 0, 0, 0, 0, 0, 0, // mask
	}},
}

// Executable returns the init as a static ELF executable of this machine's
// architecture.
func Executable() ([]byte, error) {
	program, ok := machineCode[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no init for architecture %s: pods cannot share a pid namespace", runtime.GOARCH)
	}
	size := uint64(headerSize + len(program.code))
	var b bytes.Buffer
	for _, field := range []any{
		// Elf64_Ehdr
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1},
		uint16(2), program.machine, uint32(1), // ET_EXEC
		uint64(loadAddress + headerSize), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		// Elf64_Phdr: PT_LOAD, read and execute
		uint32(1), uint32(5), uint64(0), uint64(loadAddress), uint64(loadAddress),
		size, size, uint64(0x1000),
	} {
		if err := binary.Write(&b, binary.LittleEndian, field); err != nil {
			return nil, fmt.Errorf("encode the init: %w", err)
		}
	}
	b.Write(program.code)
	return b.Bytes(), nil
}

// Command program is what the containers of the end-to-end tests run where
// busybox cannot do the job: it writes numbered lines, serves, hogs memory,
// answers signals and shows what only the kernel knows about a file. It is
// compiled statically by the tests and put into their images as /bin/probe.
package main

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe log|httpd|udp|hog|trap|flood|xattr|id|dial|get [flags]")
		os.Exit(2)
	}
	commands := map[string]func([]string) error{
		"log": logLines, "httpd": serveHTTP, "udp": serveUDP, "hog": hogMemory,
		"trap": trapSignal, "flood": flood, "xattr": showXattrs, "id": showIDs, "dial": dial, "get": get,
	}
	run, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown command %q\n", os.Args[1])
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// logLines writes "out 00000001", "out 00000002", … to stdout and the same with
// err to stderr, each line with one write, and exits with the code asked for.
func logLines(args []string) error {
	f := flag.NewFlagSet("log", flag.ExitOnError)
	lines := f.Int("lines", 10, "lines for each stream; 0 until the file of -until exists")
	rate := f.Int("rate", 0, "lines a second; 0 as fast as possible")
	stderr := f.Bool("stderr", false, "write each line to stderr too")
	until := f.String("until", "", "stop when this file exists")
	code := f.Int("exit", 0, "exit code")
	if err := f.Parse(args); err != nil {
		return err
	}
	var tick <-chan time.Time
	if *rate > 0 {
		ticker := time.NewTicker(time.Second / time.Duration(*rate))
		defer ticker.Stop()
		tick = ticker.C
	}
	for n := 1; *lines == 0 || n <= *lines; n++ {
		if tick != nil {
			<-tick
		}
		if _, err := fmt.Fprintf(os.Stdout, "out %08d\n", n); err != nil {
			return err
		}
		if *stderr {
			if _, err := fmt.Fprintf(os.Stderr, "err %08d\n", n); err != nil {
				return err
			}
		}
		if *until != "" {
			if _, err := os.Stat(*until); err == nil {
				break
			}
		}
	}
	os.Exit(*code)
	return nil
}

// serveHTTP answers every request with a fixed body. It does not use net/http,
// to stay small in memory.
func serveHTTP(args []string) error {
	f := flag.NewFlagSet("httpd", flag.ExitOnError)
	addr := f.String("addr", ":8080", "address to listen on")
	body := f.String("body", "hello", "body of each answer")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", *addr)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		buf := make([]byte, 4096)
		_, _ = c.Read(buf)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(*body), *body)
		_ = c.Close()
	}
}

// serveUDP echoes each datagram.
func serveUDP(args []string) error {
	f := flag.NewFlagSet("udp", flag.ExitOnError)
	addr := f.String("addr", ":8081", "address to listen on")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := net.ListenPacket("udp", *addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", *addr)
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buf[:n], from); err != nil {
			return err
		}
	}
}

// hogMemory touches memory until it has the amount asked for or the kernel ends it.
func hogMemory(args []string) error {
	f := flag.NewFlagSet("hog", flag.ExitOnError)
	size := f.Int("mib", 256, "MiB to touch")
	if err := f.Parse(args); err != nil {
		return err
	}
	var keep [][]byte
	for range *size {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		keep = append(keep, block)
	}
	fmt.Println("touched", len(keep), "MiB")
	return nil
}

// trapSignal says which signals arrive; it ends with the code given at the
// first, or goes on for ever.
func trapSignal(args []string) error {
	f := flag.NewFlagSet("trap", flag.ExitOnError)
	ignore := f.Bool("ignore", false, "go on after a signal")
	code := f.Int("exit", 0, "exit code")
	if err := f.Parse(args); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1)
	fmt.Println("ready")
	for s := range signals {
		fmt.Println("got", unix.SignalName(s.(syscall.Signal)))
		if !*ignore {
			os.Exit(*code)
		}
	}
	return nil
}

// flood writes the number of bytes asked for, without a newline.
func flood(args []string) error {
	f := flag.NewFlagSet("flood", flag.ExitOnError)
	size := f.Int("bytes", 1<<20, "bytes to write")
	if err := f.Parse(args); err != nil {
		return err
	}
	block := []byte(strings.Repeat("x", 64<<10))
	for left := *size; left > 0; {
		n, err := os.Stdout.Write(block[:min(left, len(block))])
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// showIDs prints the real and the effective user.
func showIDs([]string) error {
	_, err := fmt.Println(os.Getuid(), os.Geteuid())
	return err
}

// showXattrs prints "name=hex" for each extended attribute of each file named.
func showXattrs(paths []string) error {
	for _, path := range paths {
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return fmt.Errorf("list attributes of %q: %w", path, err)
		}
		for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
			if name == "" {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return fmt.Errorf("get attribute %q of %q: %w", name, path, err)
			}
			fmt.Printf("%s=%s\n", name, hex.EncodeToString(value[:n]))
		}
	}
	return nil
}

// dial writes bytes, in hex, to a unix socket and shows the first answer.
func dial(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("dial needs a socket and bytes")
	}
	request, err := hex.DecodeString(args[1])
	if err != nil {
		return err
	}
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(request); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer[:n])
	return err
}

package network

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 10655508298  502928    0    0    0     0          0         0 10655508298  502928    0    0    0     0       0          0
  eth0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
  eth0:18446744073709551615   35927    1    2    0     0          0         0  3329042   29570    3    4    0     0       0          0
  bad0: 1 2 3
  bad1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 x
`

func TestParseUsage(t *testing.T) {
	got := parseUsage([]byte(netDev))
	want := []Usage{
		{"eth0:1", Traffic{1, 2, 3, 4}, Traffic{9, 10, 11, 12}},
		{"eth0", Traffic{18446744073709551615, 35927, 1, 2}, Traffic{3329042, 29570, 3, 4}},
	}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := parseUsage(nil); got == nil || len(got) != 0 {
		t.Errorf("a namespace without interfaces: %#v", got)
	}
}

func TestReadUsage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var before unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &before); err != nil {
		t.Fatal(err)
	}
	all, err := ReadUsage([]string{"/proc/self/ns/none", "/proc/self/ns/net", file})
	if err == nil {
		t.Error("a file is no namespace")
	}
	if len(all) != 3 || all[0] != nil || all[1] == nil || all[2] != nil {
		t.Errorf("%+v", all)
	}
	var after unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &after); err != nil || after.Ino != before.Ino {
		t.Errorf("this thread has moved: %v", err)
	}
}

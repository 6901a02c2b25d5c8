package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

func TestTakeDirectories(t *testing.T) {
	dir := t.TempDir()
	at := func(root, state string) *config.Config {
		return &config.Config{Root: filepath.Join(dir, root), State: filepath.Join(dir, state)}
	}
	unlock, err := takeDirectories(at("root", "state"))
	if err != nil {
		t.Fatal(err)
	}
	for shared, cfg := range map[string]*config.Config{
		"root":  at("root", "state2"),
		"state": at("root2", "state"),
	} {
		_, err := takeDirectories(cfg)
		if !errors.Is(err, linux.ErrLocked) || !strings.Contains(err.Error(), "another cri-node serves from "+filepath.Join(dir, shared)+":") {
			t.Errorf("second daemon with the same %s: %v", shared, err)
		}
	}
	// What a refused one took is free again.
	other, err := takeDirectories(at("root2", "state2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unlock(), other()); err != nil {
		t.Fatal(err)
	}
	if unlock, err = takeDirectories(at("root", "state")); err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "cri.sock")
	var l net.Listener
	var server config.Server
	for gid, mode := range map[int]fs.FileMode{12345: 0o660, 0: 0o600} {
		if os.Getuid() != 0 && gid != 0 {
			continue
		}
		server = config.Server{Listen: "unix://" + path, SocketGID: gid}
		if l != nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if l, err = listen(server); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|mode {
			t.Errorf("the socket of group %d is %v, %v", gid, info.Mode(), err)
		}
	}
	if _, err := listen(server); err == nil || !strings.Contains(err.Error(), "another program serves on "+path) {
		t.Errorf("listen where another serves: %v", err)
	}

	// kill -9 leaves the socket behind.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := listen(server)
	if err != nil {
		t.Fatalf("listen where a dead daemon's socket is: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(server); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("listen where a file is: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "data" {
		t.Errorf("the file was touched: %q, %v", data, err)
	}
}

package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-node/cri-node/pkg/node/logs"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func TestVolumeFiller(t *testing.T) {
	for name, r := range map[string]*nodev1.CreateVolumeRequest{
		"a path that leads out": {Files: []*nodev1.VolumeFile{{Path: "a/../../x"}}},
		"an absolute path":      {Files: []*nodev1.VolumeFile{{Path: "/etc/passwd"}}},
		"no path":               {Files: []*nodev1.VolumeFile{{Path: ""}}},
		"the volume itself":     {Files: []*nodev1.VolumeFile{{Path: "a/.."}}},
		"a mode that is none":   {Mode: 0o10000},
		"a file's that is none": {Files: []*nodev1.VolumeFile{{Path: "a", Mode: 0o100644}}},
	} {
		if _, err := volumeFiller(r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if fill, err := volumeFiller(&nodev1.CreateVolumeRequest{}); fill != nil || err != nil {
		t.Errorf("nothing to fill it with: %v", err)
	}
	dir := t.TempDir()
	fill, err := volumeFiller(&nodev1.CreateVolumeRequest{Mode: 0o1777, Files: []*nodev1.VolumeFile{
		{Path: "a/b", Mode: 0o440, Content: []byte("text")}, {Path: "c", Mode: 0o600},
	}})
	if err == nil {
		err = fill(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{".": os.ModeDir | os.ModeSticky | 0o777, "a/b": 0o440, "c": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", path, info, err, want)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a/b")); err != nil || string(text) != "text" {
		t.Errorf("%q %v", text, err)
	}
}

func TestLogBounds(t *testing.T) {
	s := &Server{config: Config{Logs: logs.Bounds{Size: 100, Files: 3}}}
	for _, test := range []struct {
		size  int64
		files uint32
		want  logs.Bounds
	}{
		{0, 0, logs.Bounds{Size: 100, Files: 3}},
		{0, 5, logs.Bounds{Size: 100, Files: 5}},
		{7, 0, logs.Bounds{Size: 7, Files: 1}},
		{7, 2, logs.Bounds{Size: 7, Files: 2}},
		{-1, 0, logs.Bounds{Size: -1, Files: 1}},
	} {
		if got := s.logBounds(&record{LogMaxSize: test.size, LogMaxFiles: test.files}); got != test.want {
			t.Errorf("%d %d: %v, want %v", test.size, test.files, got, test.want)
		}
	}
}

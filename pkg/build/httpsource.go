package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// maxDownload bounds one file of ADD http://.
const maxDownload = 32 << 30

// httpSource downloads a file. Its time is that which the server says, else the
// epoch, so that the result does not depend on when it was fetched.
func (r *run) httpSource(ctx context.Context, id string, op *pb.SourceOp) (res result, err error) {
	attrs := op.GetAttrs()
	url := op.GetIdentifier()
	var want digest.Digest
	if c := attrs[pb.AttrHTTPChecksum]; c != "" {
		if want, err = digest.Parse(c); err != nil {
			return result{}, fmt.Errorf("checksum %q: %w: %w", c, err, errdefs.ErrInvalidArgument)
		}
	}
	mode, err := fileMode(attrs[pb.AttrHTTPPerm], 0o600)
	if err != nil {
		return result{}, err
	}
	name := filepath.Base(filepath.Join("/", attrs[pb.AttrHTTPFilename]))
	if name == "/" {
		name = "download"
	}
	dir, err := r.diskDir("http")
	if err != nil {
		return result{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return result{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return result{}, fmt.Errorf("download: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return result{}, fmt.Errorf("download %s: %s: %w", url, resp.Status, errdefs.ErrNotFound)
	}
	got, err := r.download(id, resp, filepath.Join(dir, name), mode)
	if err != nil {
		return result{}, fmt.Errorf("download %s: %w", url, err)
	}
	if want != "" && got != want {
		return result{}, fmt.Errorf("digest mismatch for %s: %s (expected: %s): %w", url, got, want, errdefs.ErrFailedPrecondition)
	}
	return result{dir: dir, content: "http:" + name + ":" + mode.String() + ":" + got.String()}, nil
}

// download writes a body to a file.
func (r *run) download(step string, resp *http.Response, path string, mode os.FileMode) (digest.Digest, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return "", err
	}
	d := digest.Canonical.Digester()
	counter := &counter{report: func(n int64) { r.progress.to.Progress(step, "downloading", n, max(0, resp.ContentLength)) }}
	n, err := io.Copy(io.MultiWriter(f, d.Hash(), counter), io.LimitReader(resp.Body, maxDownload+1))
	if err == nil && n > maxDownload {
		err = fmt.Errorf("more than %d bytes: %w", int64(maxDownload), errdefs.ErrResourceExhausted)
	}
	if err = errors.Join(err, f.Close(), os.Chmod(path, mode)); err != nil {
		return "", err
	}
	stamp := time.Unix(0, 0)
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		stamp = t
	}
	return d.Digest(), os.Chtimes(path, stamp, stamp)
}

// counter reports how much has passed, a few times a second.
type counter struct {
	n      int64
	last   time.Time
	report func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if time.Since(c.last) > 200*time.Millisecond {
		c.last = time.Now()
		c.report(c.n)
	}
	return len(p), nil
}

// stringList is how the graph has lists in attributes.
func stringList(s string) (list []string, err error) {
	if s == "" {
		return nil, nil
	}
	err = json.Unmarshal([]byte(s), &list)
	return list, err
}

package node

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/imageconfig"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// chunkSize is how many bytes of a file one message carries.
const chunkSize = 256 << 10

// chunkWriter sends what is written as messages.
type chunkWriter struct{ send func(*nodev1.Chunk) error }

func (c chunkWriter) Write(b []byte) (int, error) {
	if err := c.send(&nodev1.Chunk{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// sendFile sends what write writes.
func sendFile(send func(*nodev1.Chunk) error, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(chunkWriter{send}, chunkSize)
	if err := write(w); err != nil {
		return err
	}
	return w.Flush()
}

// chunkReader reads what comes as messages.
type chunkReader struct {
	next func() ([]byte, error)
	rest []byte
}

func (c *chunkReader) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		var err error
		if c.rest, err = c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Save sends images as an archive.
func (s *images) Save(r *nodev1.SaveRequest, stream grpc.ServerStreamingServer[nodev1.Chunk]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	if len(r.GetImages()) == 0 {
		return invalid("images: are empty")
	}
	for _, ref := range r.GetImages() {
		if _, err := s.findImage(ref); err != nil {
			return err
		}
	}
	err := sendFile(stream.Send, func(w io.Writer) error {
		return s.config.Images.Save(ctx, r.GetImages(), cmp.Or(r.GetFormat(), image.DockerArchive), w)
	})
	if err == nil {
		for _, ref := range r.GetImages() {
			s.Report("image", "save", ref, ref, nil)
		}
	}
	return err
}

// Load takes an archive and tells what was in it.
func (s *images) Load(stream grpc.BidiStreamingServer[nodev1.LoadRequest, nodev1.Progress]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return firstMessage(err)
	}
	in := &chunkReader{rest: first.GetData(), next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	loaded, err := s.config.Images.Load(ctx, in, image.LoadOptions{
		Platform:   first.GetPlatform(),
		OnProgress: func(p image.Progress) { _ = stream.Send(progressMessage(p)) }, // a client that is gone ends ctx
	})
	if err != nil {
		return err
	}
	for _, l := range loaded {
		img, err := s.config.Images.Resolve(l.ID)
		if err != nil {
			return err
		}
		s.Report("image", "load", l.ID, l.ID, nil)
		messages := []string{"Loaded image ID: " + l.ID}
		if len(l.Names) > 0 {
			messages = nil
		}
		result := &nodev1.ImageResult{Id: l.ID, Size: int64(img.Size)}
		for _, n := range l.Names {
			messages = append(messages, "Loaded image: "+familiar(n))
			result.Name = n
		}
		for _, m := range messages {
			if err := stream.Send(&nodev1.Progress{Message: m}); err != nil {
				return err
			}
		}
		if err := stream.Send(&nodev1.Progress{Image: result}); err != nil {
			return err
		}
	}
	return nil
}

// firstMessage is why a stream has not even one.
func firstMessage(err error) error {
	if errors.Is(err, io.EOF) {
		return invalid("data: is empty")
	}
	return err
}

// Import makes an image of the tar of a root file system.
func (s *images) Import(stream grpc.ClientStreamingServer[nodev1.ImportRequest, nodev1.ImportResponse]) error {
	ctx, cancel := s.bound(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return firstMessage(err)
	}
	in := &chunkReader{rest: first.GetData(), next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	id, err := s.importTar(ctx, first, in)
	if err != nil {
		return err
	}
	s.Report("image", "import", id, first.GetImage(), nil)
	return stream.SendAndClose(&nodev1.ImportResponse{Id: id})
}

func (s *images) importTar(ctx context.Context, r *nodev1.ImportRequest, in io.Reader) (string, error) {
	platform := platforms.DefaultSpec()
	if r.GetPlatform() != "" {
		var err error
		if platform, err = platforms.Parse(r.GetPlatform()); err != nil {
			return "", invalid("platform %q: %v", r.GetPlatform(), err)
		}
	}
	names, err := newNames(r.GetImage())
	if err != nil {
		return "", err
	}
	c := imageconfig.New(platform)
	if err := imageconfig.Change(c, r.GetChanges()); err != nil {
		return "", err
	}
	layer, err := s.config.Images.AddLayer(ctx, in, nil)
	if err != nil {
		return "", err
	}
	defer layer.Release()
	imageconfig.AddLayer(c, layer.DiffID, time.Now(), ocispec.History{Comment: cmp.Or(r.GetMessage(), "Imported from -")})
	return s.register(ctx, c, names)
}

// newNames checks the name of a new image, which may be empty.
func newNames(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	named, err := image.ParseReference(name)
	if err != nil {
		return nil, err
	}
	return []string{named.String()}, nil
}

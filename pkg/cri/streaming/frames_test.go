package streaming

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/iotest"

	"github.com/moby/spdystream/spdy"
)

// dataFrame is a frame of a stream.
func dataFrame(stream uint32, flags byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, stream)
	b = binary.BigEndian.AppendUint32(b, uint32(flags)<<24|uint32(len(payload)))
	return append(b, payload...)
}

// parsed is what the frames of one stream amount to.
type parsed struct {
	payload []byte
	fins    int
	largest int
}

// parseFrames reads frames to the end.
func parseFrames(t *testing.T, b []byte) map[uint32]*parsed {
	t.Helper()
	streams := map[uint32]*parsed{}
	for len(b) > 0 {
		if len(b) < frameHeader {
			t.Fatalf("%d bytes are no header", len(b))
		}
		id := binary.BigEndian.Uint32(b)
		flags, length := b[4], int(binary.BigEndian.Uint32(b[4:])&0xffffff)
		b = b[frameHeader:]
		if length > len(b) {
			t.Fatalf("a frame of %d bytes has %d", length, len(b))
		}
		p := streams[id]
		if p == nil {
			p = &parsed{}
			streams[id] = p
		}
		if p.fins > 0 {
			t.Errorf("stream %d goes on after its end", id)
		}
		p.payload = append(p.payload, b[:length]...)
		p.largest = max(p.largest, length)
		if flags&finFlag != 0 {
			p.fins++
		}
		b = b[length:]
	}
	return streams
}

func TestFrames(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	var in []byte
	in = append(in, dataFrame(1, 0, []byte("small"))...)
	in = append(in, dataFrame(3, finFlag, big)...)
	in = append(in, dataFrame(0x80030001, 0, bytes.Repeat([]byte("c"), 100))...) // SYN_STREAM
	in = append(in, dataFrame(1, 0, big[:maxDataFrame])...)
	in = append(in, dataFrame(1, finFlag, nil)...)
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(in), "by bytes": iotest.OneByteReader(bytes.NewReader(in)), "by halves": iotest.HalfReader(bytes.NewReader(in)),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := io.ReadAll(&spdyFrames{in: r})
			if err != nil {
				t.Fatal(err)
			}
			got := parseFrames(t, out)
			if want := append([]byte("small"), big[:maxDataFrame]...); !bytes.Equal(got[1].payload, want) || got[1].fins != 1 {
				t.Errorf("stream 1 has %d bytes and %d ends", len(got[1].payload), got[1].fins)
			}
			if !bytes.Equal(got[3].payload, big) || got[3].fins != 1 || got[3].largest != maxDataFrame {
				t.Errorf("stream 3 has %d bytes, %d ends, frames of %d", len(got[3].payload), got[3].fins, got[3].largest)
			}
			if len(got[0x80030001].payload) != 100 {
				t.Errorf("the control frame has %d bytes", len(got[0x80030001].payload))
			}
		})
	}
}

// pieces keeps writes apart.
type pieces [][]byte

func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, bytes.Clone(b))
	return len(b), nil
}

// TestFrameWriter writes what the library writes, field by field.
func TestFrameWriter(t *testing.T) {
	var got pieces
	framer, err := spdy.NewFramer(&frameWriter{out: &got}, nil)
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), 100_000)
	for _, frame := range []spdy.Frame{
		&spdy.SynReplyFrame{StreamId: 1, Headers: http.Header{"A": {"b"}}},
		&spdy.DataFrame{StreamId: 1, Data: []byte("hello")},
		&spdy.DataFrame{StreamId: 1, Data: big},
		&spdy.DataFrame{StreamId: 1, Flags: spdy.DataFlagFin},
		&spdy.RstStreamFrame{StreamId: 1, Status: spdy.Cancel},
		&spdy.GoAwayFrame{LastGoodStreamId: 1},
	} {
		got = nil
		if err := framer.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 {
			t.Fatalf("%T took %d writes", frame, len(got))
		}
		read, err := spdy.NewFramer(io.Discard, bytes.NewReader(got[0]))
		if err != nil {
			t.Fatal(err)
		}
		again, err := read.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := frame.(*spdy.DataFrame); ok {
			if d, ok := again.(*spdy.DataFrame); !ok || !bytes.Equal(d.Data, data.Data) || d.Flags != data.Flags {
				t.Errorf("a data frame of %d bytes came out as %T", len(data.Data), again)
			}
		}
	}
	broken := &frameWriter{out: writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe })}
	if _, err := broken.Write(dataFrame(1, 0, []byte("x"))); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to a closed connection: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":             {nil, nil},
		"half a header":       {[]byte("1234"), io.ErrUnexpectedEOF},
		"half a frame":        {dataFrame(1, 0, []byte("hello"))[:10], io.ErrUnexpectedEOF},
		"half a large frame":  {dataFrame(1, 0, make([]byte, 1<<20))[:frameHeader+maxDataFrame], io.ErrUnexpectedEOF},
		"huge control frame":  {dataFrame(0x80030001, 0, make([]byte, maxControlFrame+1)), errProtocol},
		"large control frame": {dataFrame(0x80030001, 0, make([]byte, maxControlFrame)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := io.Copy(io.Discard, &spdyFrames{in: bytes.NewReader(tc.in)}); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(dataFrame(1, finFlag, make([]byte, 3*maxDataFrame)))
	f.Add(dataFrame(0x80030001, 0, []byte("x")))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(&spdyFrames{in: bytes.NewReader(in)})
		if err == nil {
			parseFrames(t, out)
		}
	})
}

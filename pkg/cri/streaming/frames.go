package streaming

import (
	"encoding/binary"
	"errors"
	"io"
)

// Bounds on the frames of a client. The SPDY library takes frames of 16 MiB and
// keeps some hundred of them for streams that nobody reads: without a bound one
// session could hold gigabytes.
const (
	maxDataFrame    = 32 << 10
	maxControlFrame = 16 << 10
)

const (
	frameHeader = 8 // stream or type, flags, length
	finFlag     = 0x01
)

// spdyFrames is a SPDY connection (version 3.1, sections 2.2.1 and 2.2.2) on its way
// from the client to the library: large data frames come out as several small
// ones, and control frames larger than any that makes sense are an error. It
// has one reader.
type spdyFrames struct {
	in io.Reader
	// header is what is left to give of the header of the current frame, and
	// payload how much of its payload is.
	header  []byte
	payload int
	// rest is how much of a large data frame follows the current piece of it.
	rest   int
	buffer [frameHeader]byte
}

// Read reads on, from frame to frame.
func (f *spdyFrames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(f.header) == 0 && f.payload == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(f.header) > 0 {
		n := copy(p, f.header)
		f.header = f.header[n:]
		return n, nil
	}
	n, err := f.in.Read(p[:min(len(p), f.payload)])
	f.payload -= n
	if errors.Is(err, io.EOF) && f.payload+f.rest > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next makes the header of the next frame.
func (f *spdyFrames) next() error {
	flags := f.buffer[4]
	length := f.rest
	if length == 0 {
		if _, err := io.ReadFull(f.in, f.buffer[:]); err != nil {
			return err
		}
		flags = f.buffer[4]
		length = payloadLength(f.buffer[:])
		if control := f.buffer[0]&0x80 != 0; control {
			if length > maxControlFrame {
				return protocolError("a control frame of %d bytes", length)
			}
			f.header, f.payload = f.buffer[:], length
			return nil
		}
	}
	f.payload = min(length, maxDataFrame)
	f.rest = length - f.payload
	// The buffer keeps the flags of the whole; only its last piece has them.
	piece := f.buffer
	if f.rest > 0 {
		flags &^= finFlag
	}
	binary.BigEndian.PutUint32(piece[4:], uint32(flags)<<24|uint32(f.payload))
	f.header = piece[:]
	return nil
}

// frameWriter is a SPDY connection on its way to the client. The library writes
// each field of a frame by itself, which would each be a packet; out gets a frame
// in one piece. It has one writer at a time.
type frameWriter struct {
	out   io.Writer
	frame []byte // what is there of the current frame
}

// Write takes a part of a frame. The last part fails when the frame cannot be sent.
func (f *frameWriter) Write(p []byte) (int, error) {
	f.frame = append(f.frame, p...)
	if len(f.frame) < frameHeader || len(f.frame) < frameHeader+payloadLength(f.frame) {
		return len(p), nil
	}
	_, err := f.out.Write(f.frame)
	f.frame = f.frame[:0]
	return len(p), err
}

func payloadLength(frame []byte) int {
	return int(binary.BigEndian.Uint32(frame[4:]) & 0xffffff)
}

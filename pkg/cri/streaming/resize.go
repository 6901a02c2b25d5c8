package streaming

import (
	"encoding/json"
	"io"
)

// maxSize bounds the JSON of one size of a terminal.
const maxSize = 1 << 10

// copySizes reads sizes until the reader ends or is wrong, and closes the
// channel. It never waits for a listener, so that its life is the reader's
// alone (CVE-2022-23471): the channel has room for one size, the latest.
func copySizes(to chan Size, from io.Reader) {
	defer close(to)
	limited := &io.LimitedReader{R: from}
	decoder := json.NewDecoder(limited)
	for {
		limited.N = maxSize // the decoder holds what it reads of one value
		var s Size
		if err := decoder.Decode(&s); err != nil {
			break
		}
		select {
		case to <- s:
			continue
		default:
		}
		select {
		case <-to: // superseded
		default:
		}
		to <- s // there is room: nobody else sends
	}
	// Whoever sends more must not be kept waiting.
	_, _ = io.Copy(io.Discard, from)
}

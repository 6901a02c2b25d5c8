package streaming

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// echoServer echoes until the other end closes, and resets who says "reset".
func echoServer(t *testing.T) (port uint16) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				buffer := make([]byte, 32<<10)
				for {
					n, err := conn.Read(buffer)
					if bytes.HasPrefix(buffer[:n], []byte("reset")) {
						_ = conn.(*net.TCPConn).SetLinger(0)
						return
					}
					if _, werr := conn.Write(buffer[:n]); err != nil || werr != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// dialForward opens a port-forward session of one kind.
func dialForward(t *testing.T, tunnelled bool, link string) httpstream.Connection {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	var dialer httpstream.Dialer
	if tunnelled {
		dialer, err = portforward.NewSPDYOverWebsocketDialerForStreaming(u, &rest.Config{Host: u.Host})
	} else {
		tripper, terr := spdy.NewRoundTripper(nil)
		err = terr
		dialer = spdyDialer{tripper, u}
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := dialer.Dial("portforward.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

type spdyDialer struct {
	*spdy.SpdyRoundTripper
	url *url.URL
}

func (d spdyDialer) Dial(protocols ...string) (httpstream.Connection, string, error) {
	r, err := http.NewRequest(http.MethodPost, d.url.String(), nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set(httpstream.HeaderProtocolVersion, strings.Join(protocols, ","))
	response, err := d.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	conn, err := d.NewConnection(response)
	return conn, response.Header.Get(httpstream.HeaderProtocolVersion), err
}

// connect makes the streams of one forwarded connection.
func connect(t *testing.T, conn httpstream.Connection, id string, port uint16) (data, failures httpstream.Stream) {
	t.Helper()
	streams := map[string]httpstream.Stream{}
	for _, kind := range []string{"error", "data"} {
		h := http.Header{}
		h.Set("streamType", kind)
		h.Set("port", strconv.Itoa(int(port)))
		if id != "" {
			h.Set("requestID", id)
		}
		var err error
		if streams[kind], err = conn.CreateStream(h); err != nil {
			t.Fatal(err)
		}
	}
	return streams["data"], streams["error"]
}

func TestForward(t *testing.T) {
	port := echoServer(t)
	for _, tunnelled := range []bool{false, true} {
		t.Run(fmt.Sprint("tunnelled ", tunnelled), func(t *testing.T) {
			s := serve(t, impatient(), &fakeRuntime{})
			conn := dialForward(t, tunnelled, must1(t)(s.PortForward(PortForward{})))
			exchange := func(id string) {
				data, failures := connect(t, conn, id, port)
				payload := bytes.Repeat([]byte(id), 2_000)
				go func() { _, _ = data.Write(payload); _ = data.Close() }()
				if got, err := io.ReadAll(data); err != nil || !bytes.Equal(got, payload) {
					t.Errorf("%s: %d bytes came back, %v", id, len(got), err)
				}
				if got, err := io.ReadAll(failures); err != nil || len(got) > 0 {
					t.Errorf("%s: error %q, %v", id, got, err)
				}
				conn.RemoveStreams(data, failures)
			}
			exchange("") // of a client before the header
			var all sync.WaitGroup
			for i := range 200 {
				all.Go(func() { exchange("id" + strconv.Itoa(i)) })
			}
			all.Wait()

			// Neither a connection that breaks nor one that is refused ends the
			// session; only the latter is an error (kubernetes#74551).
			data, failures := connect(t, conn, "reset", port)
			_, _ = io.WriteString(data, "reset")
			_, _ = io.Copy(io.Discard, data)
			if got, err := io.ReadAll(failures); err != nil || len(got) > 0 {
				t.Errorf("reset: error %q, %v", got, err)
			}
			_, failures = connect(t, conn, "refused", 1)
			if got, err := io.ReadAll(failures); err != nil || !strings.Contains(string(got), "refused") {
				t.Errorf("refused: error %q, %v", got, err)
			}
			// One that the client drops is over at once.
			data, _ = connect(t, conn, "dropped", port)
			_ = data.Reset()
			exchange("last")
		})
	}
}

func TestForwardRefusesStreams(t *testing.T) {
	c := impatient()
	c.openTime = 200 * time.Millisecond
	s := serve(t, c, &fakeRuntime{})
	conn := dialForward(t, false, must1(t)(s.PortForward(PortForward{})))
	for _, h := range []http.Header{
		{}, {"Streamtype": {"data"}}, {"Streamtype": {"data"}, "Port": {"0"}}, {"Streamtype": {"data"}, "Port": {"65536"}},
		{"Streamtype": {"other"}, "Port": {"80"}},
	} {
		if _, err := conn.CreateStream(h); err == nil {
			t.Errorf("a stream with %v is accepted", h)
		}
	}
	// Half a pair is given up.
	half, err := conn.CreateStream(http.Header{"Streamtype": {"data"}, "Port": {"80"}, "Requestid": {"half"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(half); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// TestForwardEnds with Stop, with everything under way.
func TestForwardEnds(t *testing.T) {
	port := echoServer(t)
	for _, tunnelled := range []bool{false, true} {
		s := serve(t, impatient(), &fakeRuntime{})
		conn := dialForward(t, tunnelled, must1(t)(s.PortForward(PortForward{})))
		var floods []httpstream.Stream // nobody reads what comes back
		for i := range 20 {
			data, _ := connect(t, conn, strconv.Itoa(i), port)
			floods = append(floods, data)
		}
		for _, data := range floods {
			go func() { _, _ = io.Copy(data, zeros{}) }()
		}
		begin := time.Now()
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("stopping took %v", took)
		}
		_ = conn.Close()
	}
}

func TestForwardChannels(t *testing.T) {
	port := echoServer(t)
	s := serve(t, impatient(), &fakeRuntime{})
	for _, protocol := range []string{"v4.channel.k8s.io", ""} {
		ws := dialChannels(t, must1(t)(s.PortForward(PortForward{Ports: []uint16{port, 1}})), protocol)
		got := map[byte]string{}
		if err := ws.WriteMessage(websocket.BinaryMessage, []byte("\x00hello")); err != nil {
			t.Fatal(err)
		}
		for got[0] != string([]byte{byte(port), byte(port >> 8)})+"hello" || !strings.Contains(got[3], "refused") {
			_, message, err := ws.ReadMessage()
			if err != nil {
				t.Fatalf("%v, after %q", err, got)
			}
			got[message[0]] += string(message[1:])
		}
		_ = ws.Close()
	}
	response := must1(t)(s.PortForward(PortForward{}))
	if _, r, err := websocket.DefaultDialer.DialContext(t.Context(), strings.Replace(response, "http", "ws", 1), nil); err == nil || r.StatusCode != http.StatusBadRequest {
		t.Errorf("channels for no ports: %v", err)
	}
}

func dialChannels(t *testing.T, link, protocol string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{}
	if protocol != "" {
		d.Subprotocols = []string{protocol}
	}
	// As behind kubelet and a dashboard.
	ws, response, err := d.DialContext(t.Context(), strings.Replace(link, "http", "ws", 1), http.Header{"Origin": []string{"https://dashboard.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if ws.Subprotocol() != protocol {
		t.Errorf("protocol is %q, want %q", ws.Subprotocol(), protocol)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return ws
}

// TestChannels is for the protocols that today's clients do not speak.
func TestChannels(t *testing.T) {
	s := serve(t, impatient(), &fakeRuntime{exec: func(_ context.Context, _ Exec, s Streams) (int, error) {
		buffer := make([]byte, 5)
		_, err := io.ReadFull(s.Stdin, buffer)
		_, werr := s.Stdout.Write(buffer)
		return 3, errors.Join(err, werr)
	}})
	const v4 = `{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`
	const v1 = "command terminated with non-zero exit code: 3"
	for _, tc := range []struct {
		protocol, send string
		kind           int
		want           []string
	}{
		{"v5.channel.k8s.io", "\x00hello", websocket.BinaryMessage, []string{"\x01", "\x01hello", "\x03" + v4}},
		{"v4.channel.k8s.io", "\x00hello", websocket.BinaryMessage, []string{"\x01", "\x01hello", "\x03" + v4}},
		{"channel.k8s.io", "\x00hello", websocket.BinaryMessage, []string{"\x01", "\x01hello", "\x03" + v1}},
		{"", "\x00hello", websocket.BinaryMessage, []string{"\x01", "\x01hello", "\x03" + v1}},
		{"base64.channel.k8s.io", "0aGVsbG8=", websocket.TextMessage, []string{"1", "1aGVsbG8=", "3Y29tbWFuZCB0ZXJtaW5hdGVkIHdpdGggbm9uLXplcm8gZXhpdCBjb2RlOiAz"}},
	} {
		ws := dialChannels(t, must1(t)(s.Exec(Exec{Wants: Wants{Stdin: true, Stdout: true}})), tc.protocol)
		if err := ws.WriteMessage(tc.kind, []byte(tc.send)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			kind, message, err := ws.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Errorf("%q: %v", tc.protocol, err)
				}
				break
			}
			if kind != tc.kind {
				t.Errorf("%q: message of kind %d", tc.protocol, kind)
			}
			got = append(got, string(message))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %q", tc.protocol, got)
		}
		_ = ws.Close()
	}
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"v6.channel.k8s.io"}}).DialContext(t.Context(),
		strings.Replace(must1(t)(s.Exec(Exec{Wants: Wants{Stdout: true}})), "http", "ws", 1), nil)
	if err == nil {
		if _, _, err = ws.ReadMessage(); err == nil {
			t.Error("an unknown protocol is accepted")
		}
		_ = ws.Close()
	}
}

// TestForwardDataForNobody sends on the stream for errors, which is not read: the
// SPDY library waits for somebody to do so until the stream is reset, also after
// the connection is gone.
func TestForwardDataForNobody(t *testing.T) {
	ignoreEarlier := goleak.IgnoreCurrent()
	port := echoServer(t)
	s := serve(t, impatient(), &fakeRuntime{})
	conn := dialForward(t, false, must1(t)(s.PortForward(PortForward{})))
	data, failures := connect(t, conn, "1", port)
	for range 2 {
		if _, err := io.WriteString(failures, "oops"); err != nil {
			t.Fatal(err)
		}
	}
	if err := data.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(data); err != nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if err := goleak.Find(ignoreEarlier, goleak.IgnoreAnyFunction("net/http.(*Server).Serve"), goleak.IgnoreAnyFunction("github.com/cri-node/cri-node/pkg/cri/streaming.echoServer.func1")); err != nil {
		t.Error(err)
	}
}

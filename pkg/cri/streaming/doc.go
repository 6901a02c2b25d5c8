// Package streaming serves the HTTP half of CRI's Exec, Attach and PortForward:
// the call returns a URL with a token, and the client, mostly kubelet on behalf
// of a person with kubectl, opens it as SPDY or WebSocket.
//
//	Exec, Attach, PortForward     a token for what is to happen, good for one
//	      │                       use within a minute (tokens.go)
//	      ▼
//	GET or POST /exec/TOKEN …     the token is spent (server.go)
//	      │
//	      ├─ SPDY/3.1             v1 to v4.channel.k8s.io, portforward.k8s.io
//	      └─ WebSocket            channel.k8s.io, v4, v5, their base64 forms,
//	      │                       SPDY/3.1+portforward.k8s.io
//	      ▼
//	session                       the connection, from the upgrade to its end
//	      │                       (session.go)
//	      ├─ exec, attach         remote.go, over spdy.go or websocket.go
//	      └─ port-forward         forward.go, over SPDY, over SPDY in WebSocket
//	                              (tunnel.go), or over WebSocket channels
//	                              (forwardchannel.go)
//
// # Ends of a session
//
//	open ──done──▶ telling ──client closed, or linger──▶ closed
//	  ├─client left────────▶ leaving ──done, or leaveGrace──▶ closed
//	  ├─idle for too long──▶ closed
//	  └─Stop───────────────▶ telling ──▶ closed
//
// What ends well is told to the client (its streams end, then the connection
// does) and the client is given a moment to close first: a connection closed
// with bytes unread resets, and takes along what the client has not read yet.
//
// A client that is gone cannot be told anything. The process of its exec sees
// the end of its input, a hangup of its terminal and closed outputs, and has
// leaveGrace to end by itself; then it is killed with all it started. Programs
// that a shell left behind with nohup stay, as the shell has ended by itself.
// Elsewhere a process that ignores all that, such as a sleep, is left running in
// the container for good, and nobody ever learns of it.
//
// # What a client cannot do
//
// A client that does not read blocks writes of its own session only; what runs
// behind it must not wait for those (package runtime does not). A client that
// sends what nobody reads is not read from. Whoever left while neither direction
// moves is noticed by asking the kernel for the state of the connection, every
// watchInterval. Streams that were not asked for are refused, and their number
// is bounded. The SPDY library queues some hundred frames of a client; they are cut
// to 32 KiB before they get to it, so that a session holds 8 MiB at most.
//
// # Locks and goroutines
//
// The server's lock guards the tokens and the set of sessions; it is held for
// map operations only. Each session has its goroutines in a group that is waited
// for before it is over; Stop waits for all sessions.
//
// The SPDY framing and its handshake are those of k8s.io/streaming, the names on
// the wire those of k8s.io/cri-streaming. The handlers of the latter are not
// used: they have neither v5 nor tunnelling, wait for ever for streams of a
// client that left, and write the error that makes kubectl give up the session
// when one forwarded connection is reset (kubernetes#74551).
//
// The package knows nothing of containers: Runtime does.
package streaming

package monitor

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A poller tells, edge-triggered, when file descriptors may have become
// readable or were hung up. One goroutine and one epoll serve all containers.
type poller struct {
	epoll int
	wake  int // eventfd that ends the loop

	mu      sync.Mutex
	sources map[int32]func()
	next    int32
	done    chan struct{}
}

const wakeToken = 0

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		closeFD(epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	p := &poller{epoll: epoll, wake: wake, sources: map[int32]func(){}, next: wakeToken + 1, done: make(chan struct{})}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeToken}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &event); err != nil {
		closeFDs([]int{epoll, wake})
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return p, nil
}

// add calls ready, which must not block, at each edge. What is readable
// already is the first edge. The caller must remove the token before it closes
// fd.
func (p *poller) add(fd int, ready func()) (token int32, err error) {
	p.mu.Lock()
	token = p.next
	p.next++
	p.sources[token] = ready
	p.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: token}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		p.mu.Lock()
		delete(p.sources, token)
		p.mu.Unlock()
		return 0, os.NewSyscallError("epoll_ctl", err)
	}
	return token, nil
}

// remove ends the calls for a token; one may still be running.
func (p *poller) remove(fd int, token int32) {
	p.mu.Lock()
	_, known := p.sources[token]
	delete(p.sources, token)
	p.mu.Unlock()
	if known {
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) // closing fd does the same
	}
}

// run is the loop; it returns after stop.
func (p *poller) run() {
	defer close(p.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(p.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // only after the descriptor was closed, which is a bug
		}
		for _, e := range events[:n] {
			if e.Fd == wakeToken {
				return
			}
			p.mu.Lock()
			ready := p.sources[e.Fd]
			p.mu.Unlock()
			if ready != nil {
				ready()
			}
		}
	}
}

// stop ends run, waits for it and closes the poller.
func (p *poller) stop() {
	if _, err := unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err == nil {
		<-p.done
	}
	closeFDs([]int{p.epoll, p.wake})
}

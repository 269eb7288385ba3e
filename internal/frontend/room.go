package frontend

import (
	"math"
	"runtime/debug"
	"sync/atomic"

	"github.com/berthdev/berth/internal/frontend/wire"
	"github.com/berthdev/berth/internal/route"
)

const (
	// weight is what a request takes beside its body, in bytes: its goroutine, its connection's buffers and its header. It
	// was measured as 31 KiB, 35 KiB with TLS, and 37 KiB where it is passed on.
	weight = 36 << 10
	// StreamBuffer is how much of a body that nobody reads yet a server of HTTP/2 is to keep, in bytes. What comes
	// over HTTP/1.1 waits in the kernel.
	StreamBuffer = 256 << 10
)

// room is how much memory there is for requests that have no pod, or have had theirs: for all services together, because one
// process serves them all. A service may take no more than half of what is left. So one alone gets a third of it, two a quarter each,
// and however many are overloaded, others find room.
type room struct {
	size int64
	used atomic.Int64
}

// newRoom takes half of what Go is told to get along with. The other half is for requests that are being worked on, whose
// number pods limit, and for garbage.
func newRoom() *room {
	limit := debug.SetMemoryLimit(-1) // as it is; see GOMEMLIMIT
	if limit == math.MaxInt64 {
		limit = route.MemoryTarget
	}
	return &room{size: limit / 2}
}

// share is what a service's requests take of the room, in bytes.
type share struct{ atomic.Int64 }

// take has a service take n bytes more, and reports whether it may.
func (r *room) take(s *share, n int64) bool {
	mine, all := s.Add(n), r.used.Add(n)
	if mine <= (r.size-all)/2 {
		return true
	}
	r.give(s, n)
	return false
}

func (r *room) give(s *share, n int64) {
	r.used.Add(-n)
	s.Add(-n)
}

// hold takes room for the request.
func (c *passage) hold(n int64) bool {
	if !c.front.room.take(c.entry.share, n) {
		return false
	}
	c.held += n
	return true
}

// letGo gives back what the request holds.
func (c *passage) letGo() {
	if c.held != 0 {
		c.front.room.give(c.entry.share, c.held)
		c.held = 0
	}
}

// size is what the request takes while it waits here, or is worked on elsewhere.
func (c *passage) size() int64 {
	n := int64(weight)
	switch length := c.r.ContentLength; {
	case length > small || length < 0:
		n += wire.Chunk // a part of it, on its way to another front end
		if c.r.ProtoMajor > 1 {
			n += StreamBuffer
		}
	default:
		n += 2 * length // as it was read, and as it is sent
	}
	return n
}

package frontend

import (
	"context"
	"crypto/subtle"
	"errors"
	"hash/fnv"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/frontend/wire"
)

// peers are the front ends of the workspace that serve, this one included.
type peers struct {
	self  string
	addrs []string // sorted
	token string
	away  sync.Map // address to when it last did not take a connection, or broke one off without an answer
}

// awayFor is how long a front end is not tried again that did not take a connection, or broke one off without an answer. Where a
// machine died, every try costs a request the time limit of dialling; and a process that is killed breaks off one connection after the other,
// with the request that just came over it. If it lives after all, its services have two queues for that long, and their pods
// are asked by both.
const awayFor = 5 * time.Second

const tokenHeader = "X-Berth-Peer"

// SetPeers says which front ends serve: host:port of their inner listeners. token is what they show each other.
func (f *FrontEnd) SetPeers(self string, addrs []string, token string) {
	f.peers.Store(&peers{self: self, addrs: slices.Sorted(slices.Values(addrs)), token: token})
	f.wakeScaler()
}

// owner is the front end that serves a service: the one that ranks first by a hash of both names. When front ends
// come or go, only the services of those move.
func (p *peers) owner(service string) string {
	best, score := p.self, uint64(0)
	for _, a := range p.addrs {
		h := fnv.New64a()
		_, _ = h.Write([]byte(a + "\x00" + service)) // never fails
		sum := h.Sum64()
		sum ^= sum >> 33 // FNV's last bytes hardly reach its high bits
		sum *= 0xff51afd7ed558ccd
		sum ^= sum >> 33
		if sum >= score {
			best, score = a, sum
		}
	}
	return best
}

// ownership is who serves a service, as long as the front ends are these.
type ownership struct {
	*peers
	addr string
}

// owner returns the front ends, and the one of them that serves a service.
func (f *FrontEnd) owner(e *entry) *ownership {
	p := f.peers.Load()
	o := e.owner.Load()
	if o == nil || o.peers != p {
		o = &ownership{p, p.owner(e.route.Service)}
		e.owner.Store(o)
	}
	return o
}

// owns reports whether this front end serves a service.
func (f *FrontEnd) owns(e *entry) bool {
	o := f.owner(e)
	return o.token == "" || o.addr == o.self
}

// passOn hands the request to the front end that serves its service. It returns false when this one does, or when the
// other does not take the connection, or failed lately: then this one serves the request itself.
func (c *passage) passOn() bool {
	if c.front.owns(c.entry) {
		return false
	}
	o := c.front.owner(c.entry)
	if at, ok := o.away.Load(o.addr); ok && c.front.now().Sub(at.(time.Time)) < awayFor {
		return false
	}
	err := c.readEarly()
	if err == nil {
		head := newBuffer(2 << 10)
		defer head.free()
		way := c.leaves("pass on", o.addr, 1)
		head.b = c.toPeer(head.b, o.token)
		out := c.request(head)
		var a *wire.Answer
		a, err = c.front.peer.Do(c.r.Context(), o.addr, &out)
		way.arrived(a, err)
		if err == nil {
			defer a.Close()
			copyHeader(c.w.Header(), a.Header)
			if c.stream(a, a.StatusCode) != nil {
				c.cutShort()
			}
			return true
		}
	}
	var dial *wire.DialError
	var upload *wire.UploadError
	switch {
	case c.sent.late(): // the server takes one that is cut off for gone
		c.brokeOff()
	case errors.Is(err, context.Canceled): // nobody is left to tell
	case errors.As(err, &dial):
		o.away.Store(o.addr, c.front.now())
		return false
	case errors.As(err, &upload):
		c.brokeOff()
	default:
		o.away.Store(o.addr, c.front.now())
		c.front.refuse(c.w, c.service, http.StatusBadGateway, "FrontEndClosedConnection", "A front end ended while it worked on the request. Send it again.")
	}
	return true
}

// Inner answers the other front ends.
func (f *FrontEnd) Inner() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := f.peers.Load()
		if p.token == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(p.token)) != 1 {
			f.refuse(w, "", http.StatusForbidden, "NotAFrontEnd", "This port is for the other front ends.")
			return
		}
		if f.traced != nil {
			f.traced.inner.ServeHTTP(w, r)
			return
		}
		f.serve(w, r, true)
	})
}

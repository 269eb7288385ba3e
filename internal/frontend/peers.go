package frontend

import (
	"crypto/subtle"
	"hash/fnv"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"time"
)

// peers are the front ends of the workspace that serve, this one included.
type peers struct {
	self  string
	addrs []string // sorted
	token string
	away  sync.Map // address to when it last did not take a connection
}

// awayFor is how long a front end that did not take a connection is not tried again: where a machine
// died, every try costs a request the time limit of dialling.
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

// owns reports whether this front end serves a service.
func (f *FrontEnd) owns(service string) bool {
	p := f.peers.Load()
	return p.token == "" || p.owner(service) == p.self
}

// passOn hands a request to the front end that serves its service. It returns false when this one does, or when the
// other does not take the connection: then this one serves the request itself.
func (f *FrontEnd) passOn(w http.ResponseWriter, r *http.Request, service string, sent *upload) bool {
	p := f.peers.Load()
	if p.token == "" {
		return false
	}
	owner := p.owner(service)
	if owner == p.self {
		return false
	}
	if at, ok := p.away.Load(owner); ok && f.now().Sub(at.(time.Time)) < awayFor {
		return false
	}
	refused := false
	proxy := httputil.ReverseProxy{
		Transport: passing{f.peer, sent}, BufferPool: copies, ErrorLog: f.proxyLog,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", owner
			pr.SetXForwarded()
			pr.Out.Host = r.Host
			pr.Out.Header.Set(tokenHeader, p.token)
		},
		ModifyResponse: func(resp *http.Response) error {
			w.Header().Del(requestID) // the other one set it
			resp.Body = sent.pace(resp.Body)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			switch {
			case r.Context().Err() != nil && !sent.late(): // nobody is left to tell
			case isDial(err):
				p.away.Store(owner, f.now())
				refused = true
			case sent.failed():
				f.brokeOff(w, service, sent)
			default:
				f.refuse(w, service, http.StatusBadGateway, "FrontEndClosedConnection", "A front end ended while it worked on the request. Send it again.")
			}
		},
	}
	proxy.ServeHTTP(w, r)
	return !refused
}

// passing is the way of one request to another front end.
type passing struct {
	http.RoundTripper
	sent *upload
}

// RoundTrip implements http.RoundTripper.
func (p passing) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err == nil || !isDial(err) {
		p.sent.answered()
	}
	return resp, err
}

// Inner answers the other front ends.
func (f *FrontEnd) Inner() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := f.peers.Load()
		if p.token == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(p.token)) != 1 {
			f.refuse(w, "", http.StatusForbidden, "NotAFrontEnd", "This port is for the other front ends.")
			return
		}
		r.Header.Del(tokenHeader)
		f.serve(w, r, true)
	})
}

package frontend

import (
	"crypto/subtle"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
)

// peers are the front ends of the workspace that serve, this one included.
type peers struct {
	self  string
	addrs []string // sorted
	token string
}

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
func (f *FrontEnd) passOn(w http.ResponseWriter, r *http.Request, service string) bool {
	p := f.peers.Load()
	if p.token == "" {
		return false
	}
	owner := p.owner(service)
	if owner == p.self {
		return false
	}
	refused := false
	body := r.Body
	r.Body = &kept{ReadCloser: body}
	proxy := httputil.ReverseProxy{
		Transport: f.peer, BufferPool: copies,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", owner
			pr.SetXForwarded()
			pr.Out.Host = r.Host
			pr.Out.Header.Set(tokenHeader, p.token)
		},
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(requestID)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if isDial(err) {
				refused = true
				return
			}
			if r.Context().Err() == nil {
				f.refuse(w, service, http.StatusBadGateway, "FrontEndClosedConnection", "A front end ended while it worked on the request. Send it again.")
			}
		},
	}
	proxy.ServeHTTP(w, r)
	if refused {
		r.Body = body
	}
	return !refused
}

// kept is a body that stays open, for a second attempt.
type kept struct{ io.ReadCloser }

// Close leaves the body to the server, which closes it in the end.
func (*kept) Close() error { return nil }

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

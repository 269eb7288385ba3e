package frontend

import (
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// toPod writes the request line and header that a model gets. No header reaches it but by this function.
func (c *passage) toPod(b []byte) []byte {
	b = c.line(b, c.path)
	b = c.passed(b, "Authorization") // it is for the router; a model has no use for a key
	if c.fromPeer {                  // which knows the client; this one knows only the peer
		for _, name := range []string{forwardedFor, forwardedHost, forwardedProto} {
			for _, v := range c.r.Header[name] {
				b = field(b, name, v)
			}
		}
	} else {
		b = c.forwarded(b)
	}
	if name := c.version.Name; name != "" {
		b = field(b, VersionHeader, name)
	}
	return c.length(b)
}

// toPeer writes the request line and header that another front end gets.
func (c *passage) toPeer(b []byte, token string) []byte {
	b = c.line(b, c.r.URL.EscapedPath())
	b = c.passed(b, "")
	b = c.forwarded(b)
	for _, v := range c.r.Header[VersionHeader] {
		b = field(b, VersionHeader, v)
	}
	return c.length(field(b, tokenHeader, token))
}

const (
	forwardedFor   = "X-Forwarded-For"
	forwardedHost  = "X-Forwarded-Host"
	forwardedProto = "X-Forwarded-Proto"
)

// line writes the request line and the host. The server has checked both, but lets HTTP/2 clients have spaces in a query.
func (c *passage) line(b []byte, path string) []byte {
	b = append(append(append(b, c.r.Method...), ' '), path...)
	if query := c.r.URL.RawQuery; query != "" {
		b = append(b, '?')
		for i := range len(query) {
			if ch := query[i]; ch > ' ' && ch != 0x7f {
				b = append(b, ch)
			} else {
				b = append(b, '%', "0123456789ABCDEF"[ch>>4], "0123456789ABCDEF"[ch&15])
			}
		}
	}
	b = append(b, " HTTP/1.1\r\n"...)
	return field(b, "Host", c.r.Host)
}

// passed writes the caller's header without what is for this hop only, what this front end says itself, and one more.
func (c *passage) passed(b []byte, but string) []byte {
	hop := named(c.r.Header)
	for name, values := range c.r.Header {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Expect", "Content-Length", "Host", "Forwarded", forwardedFor, forwardedHost, forwardedProto, requestID, tokenHeader, but:
			continue
		case VersionHeader: // is written where it is known
			continue
		}
		if slices.Contains(hop, name) {
			continue
		}
		for _, v := range values {
			b = field(b, name, v)
		}
	}
	return field(b, requestID, c.id)
}

// forwarded writes who asks.
func (c *passage) forwarded(b []byte) []byte {
	if ip, _, err := net.SplitHostPort(c.r.RemoteAddr); err == nil {
		b = field(b, forwardedFor, ip)
	}
	proto := "http"
	if c.r.TLS != nil {
		proto = "https"
	}
	return field(field(b, forwardedHost, c.r.Host), forwardedProto, proto)
}

// length writes how the body is sent, and ends the header.
func (c *passage) length(b []byte) []byte {
	switch n := c.r.ContentLength; {
	case n < 0:
		b = field(b, "Transfer-Encoding", "chunked")
	case n > 0 || c.r.Method == http.MethodPost:
		b = append(append(b, "Content-Length: "...), strconv.FormatInt(n, 10)...)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// field writes one line. The server has checked names and values that callers sent.
func field(b []byte, name, value string) []byte {
	b = append(append(append(b, name...), ": "...), value...)
	return append(b, "\r\n"...)
}

// named are the headers that Connection says are for this hop only.
func named(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			names = append(names, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	return names
}

// copyHeader sets the header of an answer, without what was for the last hop only.
func copyHeader(to, from http.Header) {
	hop := named(from)
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			continue
		}
		if !slices.Contains(hop, name) {
			to[name] = values
		}
	}
}

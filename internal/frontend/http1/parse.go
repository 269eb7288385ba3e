package http1

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// malformed says why a request is refused.
type malformed struct {
	status int
	why    string
}

func bad(why string) *malformed { return &malformed{http.StatusBadRequest, why} }

var chunkedCoding = []string{"chunked"}

// parse reads a request's line and header. Names and values are parts of text.
func (c *caller) parse(text string) *malformed {
	r := &c.request
	*r = c.blank
	clear(r.Header)
	c.values = c.values[:0]
	line, text, _ := strings.Cut(text, "\n")
	var ok bool
	if r.Method, line, ok = strings.Cut(strings.TrimSuffix(line, "\r"), " "); !ok || !token(r.Method) {
		return bad("the request line has no method")
	}
	if r.RequestURI, r.Proto, ok = strings.Cut(line, " "); !ok {
		return bad("the request line has no version of HTTP")
	}
	switch r.Proto {
	case "HTTP/1.1":
		r.ProtoMajor, r.ProtoMinor = 1, 1
	case "HTTP/1.0":
		r.ProtoMajor = 1
	default:
		return &malformed{http.StatusHTTPVersionNotSupported, "HTTP/1.1 and HTTP/1.0 are spoken here"}
	}
	if r.Method == http.MethodConnect {
		return &malformed{http.StatusMethodNotAllowed, "CONNECT is for proxies"}
	}
	var err error
	if r.URL, err = url.ParseRequestURI(r.RequestURI); err != nil {
		return bad("the request line's target is malformed")
	}
	for text != "" {
		line, text, _ = strings.Cut(text, "\n")
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":")
		if !ok || !token(name) {
			return bad("a line of the header has no name, or a malformed one")
		}
		value = strings.Trim(value, " \t")
		if !httpguts.ValidHeaderFieldValue(value) {
			return bad("a value of the header has control characters")
		}
		c.add(textproto.CanonicalMIMEHeaderKey(name), value)
	}
	if wrong := c.host(); wrong != nil {
		return wrong
	}
	return c.framing()
}

func token(s string) bool { return httpguts.ValidHeaderFieldName(s) }

// add adds a value to the header. The first ones of all names lie side by side.
func (c *caller) add(name, value string) {
	h := c.request.Header
	if before := h[name]; before != nil {
		h[name] = append(before, value)
		return
	}
	n := len(c.values)
	c.values = append(c.values, value)
	h[name] = c.values[n : n+1 : n+1]
}

// host finds out who is asked (RFC 9112, 3.2).
func (c *caller) host() *malformed {
	r, hosts := &c.request, c.request.Header["Host"]
	if len(hosts) > 1 || len(hosts) == 0 && r.ProtoMinor == 1 {
		return bad("the header has no Host, or several")
	}
	if len(hosts) == 1 {
		r.Host = hosts[0]
	}
	if r.URL.Host != "" {
		r.Host = r.URL.Host
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return bad("Host is malformed")
	}
	delete(r.Header, "Host")
	return nil
}

// framing finds out where the request ends, and whether another may follow (RFC 9112, 6 and 9.3).
func (c *caller) framing() *malformed {
	r, h := &c.request, c.request.Header
	coding, chunked := h["Transfer-Encoding"]
	lengths := h["Content-Length"]
	switch {
	case chunked && (len(lengths) > 0 || r.ProtoMinor == 0):
		return bad("Transfer-Encoding comes beside Content-Length, or in HTTP/1.0, so that it is not clear where the body ends")
	case chunked && (len(coding) > 1 || len(coding[0]) != len("chunked") || !strings.EqualFold(coding[0], "chunked")): // which takes a Kelvin sign for a k
		return &malformed{http.StatusNotImplemented, "the only Transfer-Encoding that is known here is chunked"}
	case chunked:
		delete(h, "Transfer-Encoding")
		r.TransferEncoding, r.ContentLength = chunkedCoding, -1
	case len(lengths) > 0:
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil {
			return bad("Content-Length is no length")
		}
		for _, l := range lengths[1:] {
			if l != lengths[0] {
				return bad("there are several values of Content-Length")
			}
		}
		h["Content-Length"] = lengths[:1]
		r.ContentLength = int64(n) //nolint:gosec // has 63 bits
	}
	connection := h["Connection"]
	r.Close = httpguts.HeaderValuesContainsToken(connection, "close") || r.ProtoMinor == 0 && !httpguts.HeaderValuesContainsToken(connection, "keep-alive")
	expects := false
	if expected := h.Get("Expect"); expected != "" {
		if !strings.EqualFold(expected, "100-continue") {
			return &malformed{http.StatusExpectationFailed, "the only expectation that is known here is 100-continue"}
		}
		expects = r.ProtoMinor == 1
	}
	c.body.begin(r.ContentLength, expects)
	if r.ContentLength != 0 {
		r.Body = &c.body
	}
	return nil
}

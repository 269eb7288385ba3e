package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// service is a store behind HTTP.
type service struct {
	t     *testing.T
	store *Store
	clock *clock
	at    *url.URL
}

func serve(t *testing.T, s *Store, c *clock) *service {
	t.Helper()
	srv := httptest.NewServer(s.Handler(slog.New(slog.NewTextHandler(t.Output(), nil))))
	t.Cleanup(srv.Close)
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &service{t, s, c, at}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// code is the error code of an answer, which the header and the XML name alike.
func (a answer) code(t *testing.T) string {
	t.Helper()
	code := a.header.Get("x-ms-error-code")
	if a.body == "" || a.status < 300 {
		return code
	}
	var body struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}
	if err := xml.Unmarshal([]byte(a.body), &body); err != nil || body.Code != code || body.Message == "" || a.header.Get("Content-Type") != "application/xml" {
		t.Errorf("the error is not as Azure's are (%v, header %q): %s", err, code, a.body)
	}
	return code
}

// signed is a URL of a blob or, without a path, of the container, with further parameters.
func (s *service) signed(path, permissions, query string) string {
	u := s.store.URL(named1(path), permissions, time.Hour)
	if query != "" {
		u += "&" + query
	}
	return u
}

// do sends a request to a URL of the account's; headers are pairs of names and values.
func (s *service) do(method, u, body string, header ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, u, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = req.URL.Host
	req.URL.Scheme, req.URL.Host = s.at.Scheme, s.at.Host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req) // no redirects, no cookies
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, u, err)
	}
	return answer{res.StatusCode, res.Header, string(data)}
}

func (s *service) want(status int, method, u, body string, header ...string) answer {
	s.t.Helper()
	a := s.do(method, u, body, header...)
	if a.status != status {
		s.t.Fatalf("%s %s: status %d, want %d\n%s", method, u, a.status, status, a.body)
	}
	return a
}

func (s *service) put(path, body string, header ...string) answer {
	s.t.Helper()
	return s.want(201, "PUT", s.signed(path, "rcw", ""), body, append([]string{"x-ms-blob-type", "BlockBlob"}, header...)...)
}

func TestPutAndGet(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		const path, text = "LocalUpload/c/a model.pkl", "hello"
		sum := md5.Sum([]byte(text))
		b64 := base64.StdEncoding.EncodeToString(sum[:])
		a := s.put(path, text, "Content-Type", "text/plain", "x-ms-blob-content-type", "application/x-pickle", "x-ms-meta-Owner", "me", "x-ms-client-request-id", "abc", "x-ms-version", "2021-06-08")
		for name, want := range map[string]string{"Content-MD5": b64, "x-ms-client-request-id": "abc", "x-ms-version": "2021-06-08"} {
			if got := a.header.Get(name); got != want {
				t.Errorf("PUT answers %s: %q, want %q", name, got, want)
			}
		}
		for _, name := range []string{"ETag", "Last-Modified", "x-ms-request-id"} {
			if a.header.Get(name) == "" {
				t.Errorf("PUT answers without %s", name)
			}
		}
		for _, method := range []string{"GET", "HEAD"} {
			b := s.want(200, method, s.signed(path, "r", ""), "")
			if want := map[string]string{"GET": text, "HEAD": ""}[method]; b.body != want {
				t.Errorf("%s answers %q", method, b.body)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/x-pickle", "Content-Length": "5", "Content-MD5": b64, "ETag": a.header.Get("ETag"), "Last-Modified": a.header.Get("Last-Modified"),
				"x-ms-blob-type": "BlockBlob", "Accept-Ranges": "bytes", "x-ms-meta-owner": "me", "x-ms-lease-status": "unlocked",
			} {
				if got := b.header.Get(name); got != want {
					t.Errorf("%s answers %s: %q, want %q", method, name, got, want)
				}
			}
		}
		s.want(202, "DELETE", s.signed(path, "d", ""), "")
		for _, method := range []string{"GET", "HEAD"} {
			if a := s.want(404, method, s.signed(path, "r", ""), ""); a.code(t) != "BlobNotFound" {
				t.Errorf("%s of a deleted blob: %s", method, a.body)
			}
		}
		if a := s.want(404, "DELETE", s.signed(path, "d", ""), ""); a.code(t) != "BlobNotFound" {
			t.Error(a.body)
		}
	})
}

// Only who has a URL that was signed for an operation on a blob can do it, and only in its time.
func TestSignatures(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		s.put("b", "x")
		change := func(u, name, value string) string {
			p, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			q := p.Query()
			q.Set(name, value)
			p.RawQuery = q.Encode()
			return p.String()
		}
		read := s.signed("b", "r", "")
		later := s.clock.now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
		other := openStore(t, t.TempDir(), s.clock.now)
		other.key = []byte("another key of thirty-two bytes!")
		resign := func(name, value string) string { // as Berth itself would sign it
			p, err := url.Parse(read)
			if err != nil {
				t.Fatal(err)
			}
			q := p.Query()
			q.Set(name, value)
			q.Set("sig", s.store.signature(named1("b"), q))
			p.RawQuery = q.Encode()
			return p.String()
		}
		for name, tt := range map[string]struct {
			method, url string
			status      int
			code        string
		}{
			"read":                            {"GET", read, 200, ""},
			"no signature":                    {"GET", strings.SplitN(read, "?", 2)[0], 403, "AuthorizationFailure"},
			"empty signature":                 {"GET", change(read, "sig", ""), 403, "AuthorizationFailure"},
			"wrong signature":                 {"GET", change(read, "sig", "AAAA"), 403, "AuthenticationFailed"},
			"another key":                     {"GET", other.URL(named1("b"), "r", time.Hour), 403, "AuthenticationFailed"},
			"more permissions than signed":    {"DELETE", change(read, "sp", "rd"), 403, "AuthenticationFailed"},
			"longer than signed":              {"GET", change(read, "se", later), 403, "AuthenticationFailed"},
			"another blob":                    {"GET", strings.Replace(read, "/box/b?", "/box/c?", 1), 403, "AuthenticationFailed"},
			"another container":               {"GET", strings.Replace(read, "/box/", "/tin/", 1), 403, "AuthenticationFailed"},
			"another account":                 {"GET", strings.Replace(read, "//acct.", "//acct2.", 1), 403, "AuthenticationFailed"},
			"the account in capitals":         {"GET", strings.Replace(read, "//acct.", "//ACCT.", 1), 200, ""},
			"the whole container":             {"GET", change(read, "sr", "c"), 403, "AuthenticationFailed"},
			"expired":                         {"GET", resign("se", s.clock.now().Add(-time.Second).UTC().Format(time.RFC3339)), 403, "AuthenticationFailed"},
			"no expiry":                       {"GET", resign("se", ""), 403, "AuthenticationFailed"},
			"an expiry that is no time":       {"GET", resign("se", "tomorrow"), 403, "AuthenticationFailed"},
			"not yet":                         {"GET", resign("st", later), 403, "AuthenticationFailed"},
			"since now":                       {"GET", resign("st", s.clock.now().Add(-time.Second).UTC().Format(time.RFC3339)), 200, ""},
			"read with a URL for writing":     {"GET", s.signed("b", "cw", ""), 403, "AuthorizationPermissionMismatch"},
			"look with a URL for writing":     {"HEAD", s.signed("b", "cw", ""), 200, ""},
			"look with a URL for deleting":    {"HEAD", s.signed("b", "d", ""), 403, "AuthorizationPermissionMismatch"},
			"write with a URL for reading":    {"PUT", read, 403, "AuthorizationPermissionMismatch"},
			"stage with a URL for reading":    {"PUT", s.signed("b", "r", "comp=block&blockid=MDA%3D"), 403, "AuthorizationPermissionMismatch"},
			"commit with a URL for reading":   {"PUT", s.signed("b", "r", "comp=blocklist"), 403, "AuthorizationPermissionMismatch"},
			"blocks with a URL for writing":   {"GET", s.signed("b", "cw", "comp=blocklist"), 403, "AuthorizationPermissionMismatch"},
			"delete with a URL for all else":  {"DELETE", s.signed("b", "rcwl", ""), 403, "AuthorizationPermissionMismatch"},
			"list with a URL for all else":    {"GET", s.signed("", "rcwd", "restype=container&comp=list"), 403, "AuthorizationPermissionMismatch"},
			"replace with a URL for creating": {"PUT", s.signed("b", "c", ""), 409, "BlobAlreadyExists"},
		} {
			a := s.do(tt.method, tt.url, "", "x-ms-blob-type", "BlockBlob")
			if a.status != tt.status || tt.code != "" && a.code(t) != tt.code {
				t.Errorf("%s: %d %s, want %d %s", name, a.status, a.body, tt.status, tt.code)
			}
		}
		if got := content(t, s.store, named1("b")); got != "x" {
			t.Errorf("the blob holds %q", got)
		}
		s.clock.add(time.Hour)
		s.want(200, "GET", read, "")
		s.clock.add(time.Second)
		s.want(403, "GET", read, "")
	})
}

// azureml-core takes the path out of a URL as it is there, escapes it again, and sends that.
func TestPathEscapedTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		for _, path := range []string{"a b", "sub/ü%20.txt", "50%", "q?x#y", "%2e%2e/x"} {
			u, err := url.Parse(s.signed(path, "rcw", ""))
			if err != nil {
				t.Fatal(err)
			}
			again := *u
			again.Path, again.RawPath = u.EscapedPath(), ""
			s.want(201, "PUT", again.String(), path, "x-ms-blob-type", "BlockBlob")
			for _, at := range []string{u.String(), again.String()} {
				if a := s.want(200, "GET", at, ""); a.body != path {
					t.Errorf("%s holds %q", at, a.body)
				}
			}
			if got := content(t, s.store, named1(path)); got != path {
				t.Errorf("%q holds %q", path, got)
			}
		}
		u, err := url.Parse(s.signed("a b", "r", ""))
		if err != nil {
			t.Fatal(err)
		}
		u.Path, u.RawPath = "/box/%2e%2e/a b", ""
		if a := s.want(403, "GET", u.String(), ""); a.code(t) != "AuthenticationFailed" {
			t.Error(a.body)
		}
	})
}

func TestRanges(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		const text = "0123456789"
		s.put("b", text)
		s.put("empty", "")
		for _, tt := range []struct{ path, rng, want, contentRange string }{
			{"b", "bytes=0-9", text, "bytes 0-9/10"},
			{"b", "bytes=0-", text, "bytes 0-9/10"},
			{"b", "bytes=0-0", "0", "bytes 0-0/10"},
			{"b", "bytes=3-5", "345", "bytes 3-5/10"},
			{"b", "bytes=9-", "9", "bytes 9-9/10"},
			{"b", "bytes=8-100", "89", "bytes 8-9/10"},
			{"b", "bytes=-3", "789", "bytes 7-9/10"},
			{"b", "bytes=-100", text, "bytes 0-9/10"},
			{"b", "bytes=10-", "", ""},
			{"b", "bytes=10-20", "", ""},
			{"b", "bytes=5-4", "", ""},
			{"b", "bytes=-0", "", ""},
			{"b", "bytes=-", "", ""},
			{"b", "bytes=", "", ""},
			{"b", "bytes=a-b", "", ""},
			{"b", "bytes=+1-+2", "", ""},
			{"b", "bytes=0-1,3-4", "", ""},
			{"b", "bytes=99999999999999999999-", "", ""},
			{"b", "bytes=0-99999999999999999999", "", ""},
			{"b", "items=0-1", "", ""},
			{"b", "0-1", "", ""},
			{"empty", "bytes=0-33554431", "", ""}, // Azure's client then asks without a range
			{"empty", "bytes=-1", "", ""},
		} {
			for _, header := range []string{"Range", "x-ms-range"} {
				a := s.do("GET", s.signed(tt.path, "r", ""), "", header, tt.rng)
				if tt.contentRange == "" {
					if size := len(text); a.status != 416 || a.code(t) != "InvalidRange" || tt.path == "b" && a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
						t.Errorf("%s: %s of %s: %d %v", header, tt.rng, tt.path, a.status, a.header)
					}
					continue
				}
				if a.status != 206 || a.body != tt.want || a.header.Get("Content-Range") != tt.contentRange || a.header.Get("Content-MD5") != "" || a.header.Get("x-ms-blob-content-md5") == "" {
					t.Errorf("%s: %s answers %d %q %v", header, tt.rng, a.status, a.body, a.header)
				}
			}
		}
		if a := s.want(206, "GET", s.signed("b", "r", ""), "", "Range", "bytes=0-1", "x-ms-range", "bytes=4-5"); a.body != "45" {
			t.Errorf("of both headers, x-ms-range counts; got %q", a.body)
		}
		sum := md5.Sum([]byte("345"))
		a := s.want(206, "GET", s.signed("b", "r", ""), "", "x-ms-range", "bytes=3-5", "x-ms-range-get-content-md5", "true")
		if got := a.header.Get("Content-MD5"); got != base64.StdEncoding.EncodeToString(sum[:]) || a.body != "345" {
			t.Errorf("the range %q has the Content-MD5 %q", a.body, got)
		}
		if a := s.want(400, "GET", s.signed("b", "r", ""), "", "x-ms-range-get-content-md5", "true"); a.code(t) != "InvalidHeaderValue" {
			t.Error(a.body)
		}
		if a := s.want(200, "GET", s.signed("empty", "r", ""), ""); a.body != "" || a.header.Get("Content-Length") != "0" {
			t.Errorf("an empty blob: %q %v", a.body, a.header)
		}
	})
}

// Content that is not what its sender says is refused in words, and nothing is stored.
func TestChecksums(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		md, sha := md5.Sum([]byte("x")), sha256.Sum256([]byte("x"))
		list := "<BlockList></BlockList>"
		mdList, shaList := md5.Sum([]byte(list)), sha256.Sum256([]byte(list))
		b64 := base64.StdEncoding.EncodeToString
		for name, tt := range map[string]struct {
			header, value, listValue string
			status                   int
			code                     string
		}{
			"right MD5":           {"Content-MD5", b64(md[:]), b64(mdList[:]), 201, ""},
			"right SHA-256":       {"Content-SHA256", b64(sha[:]), b64(shaList[:]), 201, ""},
			"wrong MD5":           {"Content-MD5", b64(make([]byte, 16)), b64(md[:]), 400, "Md5Mismatch"},
			"wrong SHA-256":       {"Content-SHA256", b64(make([]byte, 32)), b64(sha[:]), 400, "Md5Mismatch"},
			"MD5 that is none":    {"Content-MD5", "?", "?", 400, "InvalidMd5"},
			"MD5 too short":       {"Content-MD5", b64([]byte("x")), b64([]byte("x")), 400, "InvalidMd5"},
			"SHA-256 of 16 bytes": {"Content-SHA256", b64(md[:]), b64(mdList[:]), 400, "InvalidHeaderValue"},
		} {
			for op, query := range map[string]string{"Put Blob": "", "Put Block": "comp=block&blockid=MDA%3D", "Put Block List": "comp=blocklist"} {
				path := strings.ReplaceAll(name+op, " ", "")
				body, value := "x", tt.value
				if op == "Put Block List" {
					body, value = list, tt.listValue
				}
				a := s.do("PUT", s.signed(path, "rcw", query), body, "x-ms-blob-type", "BlockBlob", tt.header, value)
				if a.status != tt.status || a.code(t) != tt.code {
					t.Errorf("%s with the %s: %d %s", op, name, a.status, a.body)
				}
				if tt.code == "" {
					continue
				}
				if got := paths(t, s.store, path); len(got) != 0 {
					t.Errorf("%s with the %s left %q", op, name, got)
				}
				if staged, err := s.store.Blocks(context.Background(), named1(path)); err != nil || len(staged) != 0 {
					t.Errorf("%s with the %s left the blocks %v (%v)", op, name, staged, err)
				}
			}
		}
	})
}

// The conditional headers. In values, TAG, TIME and BEFORE are the blob's ETag, its time, and the second before.
func TestConditions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		for i, tt := range []struct {
			there         bool
			header, value string
			read, write   int // status of a GET; of a PUT, or a DELETE where there is no other
		}{
			{true, "If-Match", "TAG", 200, 201},
			{true, "If-Match", "*", 200, 201},
			{true, "If-Match", `"x", TAG`, 200, 201},
			{true, "If-Match", `"0x1"`, 412, 412},
			{true, "If-None-Match", `"0x1"`, 200, 201},
			{true, "If-None-Match", "TAG", 304, 412},
			{true, "If-None-Match", "*", 304, 409},
			{true, "If-Modified-Since", "BEFORE", 200, 201},
			{true, "If-Modified-Since", "TIME", 304, 412},
			{true, "If-Unmodified-Since", "TIME", 200, 201},
			{true, "If-Unmodified-Since", "BEFORE", 412, 412},
			{true, "If-Modified-Since", "yesterday", 200, 201},
			{false, "If-Match", `"0x1"`, 404, 412},
			{false, "If-None-Match", "*", 404, 201},
		} {
			for op, request := range map[string]struct{ method, query, body string }{
				"Get Blob": {"GET", "", ""}, "Put Blob": {"PUT", "", "two"}, "Put Block List": {"PUT", "comp=blocklist", "<BlockList/>"}, "Delete Blob": {"DELETE", "", ""},
			} {
				path, value := fmt.Sprint(op, i), tt.value
				if tt.there {
					a := s.put(path, "one")
					modified, err := http.ParseTime(a.header.Get("Last-Modified"))
					if err != nil {
						t.Fatal(err)
					}
					value = strings.NewReplacer("TAG", a.header.Get("ETag"), "TIME", modified.Format(http.TimeFormat), "BEFORE", modified.Add(-time.Second).Format(http.TimeFormat)).Replace(value)
				}
				a := s.do(request.method, s.signed(path, "rcwd", request.query), request.body, "x-ms-blob-type", "BlockBlob", tt.header, value)
				want := tt.write
				switch op {
				case "Get Blob":
					want = tt.read
				case "Delete Blob":
					if want == 201 {
						want = 202
					}
					if !tt.there && tt.header != "If-Match" {
						want = 404
					}
				}
				if a.status != want {
					t.Errorf("%s with %s: %s: %d %s, want %d", op, tt.header, value, a.status, a.body, want)
				}
				code := map[int]string{304: "ConditionNotMet", 404: "BlobNotFound", 409: "BlobAlreadyExists", 412: "ConditionNotMet"}[want]
				if a.code(t) != code || want == 304 && a.body != "" {
					t.Errorf("%s with %s: %s: the code is %q, want %q; %s", op, tt.header, value, a.code(t), code, a.body)
				}
				if tt.there && (want == 409 || want == 412) && content(t, s.store, named1(path)) != "one" {
					t.Errorf("%s with %s: %s was refused, and changed the blob", op, tt.header, value)
				}
			}
		}
	})
}

func blockURL(s *service, path, id string) string {
	return s.signed(path, "rcw", "comp=block&blockid="+url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(id))))
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		id := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
		for i, text := range []string{"zero,", "one,", "two"} {
			s.want(201, "PUT", blockURL(s, "b", fmt.Sprintf("%04d", i)), text)
		}
		type blocks struct {
			Committed   *struct{ Block []Block } `xml:"CommittedBlocks"`
			Uncommitted *struct {
				Block []struct {
					Name string
					Size int64
				}
			} `xml:"UncommittedBlocks"`
		}
		list := func(kind string) (out blocks) {
			t.Helper()
			a := s.want(200, "GET", s.signed("b", "r", "comp=blocklist&blocklisttype="+kind), "")
			if err := xml.Unmarshal([]byte(a.body), &out); err != nil {
				t.Fatalf("%v: %s", err, a.body)
			}
			return out
		}
		if l := list("all"); l.Committed == nil || l.Uncommitted == nil || len(l.Uncommitted.Block) != 3 || l.Uncommitted.Block[1].Name != id("0001") || l.Uncommitted.Block[1].Size != 4 {
			t.Errorf("all blocks: %+v", l)
		}
		if l := list("committed"); l.Committed == nil || len(l.Committed.Block) != 0 || l.Uncommitted != nil {
			t.Errorf("committed blocks: %+v", l)
		}
		if l := list("uncommitted"); l.Committed != nil || l.Uncommitted == nil || len(l.Uncommitted.Block) != 3 {
			t.Errorf("uncommitted blocks: %+v", l)
		}
		if a := s.want(404, "GET", s.signed("b", "r", ""), ""); a.code(t) != "BlobNotFound" {
			t.Error("the blob is visible before it is committed")
		}
		body := `<?xml version="1.0" encoding="utf-8"?><BlockList><Latest>` + id("0002") + `</Latest><Uncommitted> ` + id("0000") + "\n</Uncommitted></BlockList>"
		a := s.want(201, "PUT", s.signed("b", "rcw", "comp=blocklist"), body, "x-ms-blob-content-type", "a/b")
		sum := md5.Sum([]byte(body))
		if got := a.header.Get("Content-MD5"); got != base64.StdEncoding.EncodeToString(sum[:]) {
			t.Errorf("Put Block List answers the Content-MD5 %q, which has to be the list's own", got)
		}
		if a := s.want(200, "GET", s.signed("b", "r", ""), ""); a.body != "twozero," || a.header.Get("Content-Type") != "a/b" {
			t.Errorf("the blob is %q %v", a.body, a.header)
		}
		if l := list("all"); len(l.Uncommitted.Block) != 0 {
			t.Errorf("blocks are left: %+v", l)
		}
		for name, tt := range map[string]struct{ method, url, body, code string }{
			"a block without ID":         {"PUT", s.signed("b", "w", "comp=block"), "x", "InvalidQueryParameterValue"},
			"a block's ID not in base64": {"PUT", s.signed("b", "w", "comp=block&blockid=!"), "x", "InvalidQueryParameterValue"},
			"a block's ID of 65 bytes":   {"PUT", blockURL(s, "b", strings.Repeat("x", 65)), "x", "InvalidQueryParameterValue"},
			"no XML":                     {"PUT", s.signed("b", "w", "comp=blocklist"), "x", "InvalidXmlDocument"},
			"nothing":                    {"PUT", s.signed("b", "w", "comp=blocklist"), "", "InvalidXmlDocument"},
			"another document":           {"PUT", s.signed("b", "w", "comp=blocklist"), "<Blocks/>", "InvalidXmlDocument"},
			"half a document":            {"PUT", s.signed("b", "w", "comp=blocklist"), "<BlockList><Latest>", "InvalidXmlDocument"},
			"a block that is not there":  {"PUT", s.signed("b", "w", "comp=blocklist"), "<BlockList><Latest>eA==</Latest></BlockList>", "InvalidBlockList"},
			"a committed block":          {"PUT", s.signed("b", "w", "comp=blocklist"), "<BlockList><Committed>eA==</Committed></BlockList>", "InvalidBlockList"},
			"too many blocks":            {"PUT", s.signed("b", "w", "comp=blocklist"), "<BlockList>" + strings.Repeat("<Latest/>", maxBlocks+1) + "</BlockList>", "BlockCountExceedsLimit"},
			"an unknown kind of list":    {"GET", s.signed("b", "r", "comp=blocklist&blocklisttype=some"), "", "InvalidQueryParameterValue"},
		} {
			if a := s.want(400, tt.method, tt.url, tt.body); a.code(t) != tt.code {
				t.Errorf("%s: %s, want %s", name, a.body, tt.code)
			}
		}
		if a := s.want(413, "PUT", s.signed("b", "w", "comp=blocklist"), "<BlockList>"+strings.Repeat(" ", maxBlockList)+"</BlockList>"); a.code(t) != "RequestBodyTooLarge" {
			t.Error(a.body)
		}
		if a := s.want(404, "GET", s.signed("absent", "r", "comp=blocklist"), ""); a.code(t) != "BlobNotFound" {
			t.Error(a.body)
		}
		if got := content(t, s.store, named1("b")); got != "twozero," {
			t.Errorf("after what was refused, the blob holds %q", got)
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		all := []string{"a-b", "a.txt", "a/1", "a/2", "a/b/3", "b", "c/4", "d"}
		for _, n := range all {
			s.put(n, n)
		}
		type result struct {
			Blobs []struct {
				Name string
				Size int64 `xml:"Properties>Content-Length"`
			} `xml:"Blobs>Blob"`
			Prefixes   []struct{ Name string } `xml:"Blobs>BlobPrefix"`
			NextMarker string
		}
		page := func(query string) (names []string, next string) {
			t.Helper()
			a := s.want(200, "GET", s.signed("", "l", "restype=container&comp=list&"+query), "")
			var r result
			if err := xml.Unmarshal([]byte(a.body), &r); err != nil {
				t.Fatalf("%v: %s", err, a.body)
			}
			for _, b := range r.Blobs {
				if b.Size != int64(len(b.Name)) {
					t.Errorf("%s has %d bytes", b.Name, b.Size)
				}
				names = append(names, b.Name)
			}
			for _, p := range r.Prefixes {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			return names, r.NextMarker
		}
		for query, want := range map[string][]string{
			"":                      all,
			"prefix=a":              {"a-b", "a.txt", "a/1", "a/2", "a/b/3"},
			"prefix=a/":             {"a/1", "a/2", "a/b/3"},
			"prefix=z":              nil,
			"prefix=../":            nil,
			"delimiter=/":           {"a-b", "a.txt", "a/", "b", "c/", "d"},
			"delimiter=/&prefix=a":  {"a-b", "a.txt", "a/"},
			"delimiter=/&prefix=a/": {"a/1", "a/2", "a/b/"},
		} {
			if got, next := page(query); !slices.Equal(got, want) || next != "" {
				t.Errorf("%q lists %q and then %q, want %q", query, got, next, want)
			}
			for size := 1; size <= len(want); size++ {
				var got []string
				for marker, pages := "", 0; pages == 0 || marker != ""; pages++ {
					var names []string
					names, marker = page(fmt.Sprintf("%s&maxresults=%d&marker=%s", query, size, url.QueryEscape(marker)))
					if len(names) > size || pages > len(want) {
						t.Fatalf("%q in pages of %d has a page %q", query, size, names)
					}
					got = append(got, names...)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q in pages of %d lists %q, want %q", query, size, got, want)
				}
			}
		}
		for _, most := range []string{"0", "-1", "x"} {
			if a := s.want(400, "GET", s.signed("", "l", "restype=container&comp=list&maxresults="+most), ""); a.code(t) != "OutOfRangeQueryParameterValue" {
				t.Error(a.body)
			}
		}
	})
}

// What Berth does not do is refused by name, in Azure's form.
func TestRefusals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, in *Store, c *clock) {
		s := serve(t, in, c)
		s.put("b", "x")
		for name, tt := range map[string]struct {
			method, url string
			header      []string
			status      int
			code, says  string
		}{
			"a lease":            {"PUT", s.signed("b", "rcwd", "comp=lease"), []string{"x-ms-lease-action", "acquire"}, 400, "UnsupportedOperation", "comp=lease"},
			"a snapshot":         {"PUT", s.signed("b", "rcwd", "comp=snapshot"), nil, 400, "UnsupportedOperation", "comp=snapshot"},
			"a page blob":        {"PUT", s.signed("p", "rcw", ""), []string{"x-ms-blob-type", "PageBlob"}, 400, "InvalidHeaderValue", "BlockBlob"},
			"no type of blob":    {"PUT", s.signed("p", "rcw", ""), nil, 400, "InvalidHeaderValue", "x-ms-blob-type"},
			"a copy":             {"PUT", s.signed("p", "rcw", ""), []string{"x-ms-blob-type", "BlockBlob", "x-ms-copy-source", "https://x/y"}, 400, "UnsupportedOperation", "copy"},
			"a new container":    {"PUT", s.signed("", "rcw", "restype=container"), nil, 400, "UnsupportedOperation", "List Blobs"},
			"another method":     {"POST", s.signed("b", "rcw", ""), nil, 400, "UnsupportedOperation", "POST"},
			"no container":       {"GET", "https://acct." + Domain + "/", nil, 400, "InvalidUri", "container"},
			"a path upwards":     {"GET", "https://acct." + Domain + "/box/%2e%2e/%2e%2e/key", nil, 400, "InvalidUri", ".."},
			"a path on the spot": {"GET", "https://acct." + Domain + "/box/a/%2e/b", nil, 400, "InvalidUri", ".."},
			"a long path":        {"GET", s.signed(strings.Repeat("x/", 513), "r", ""), nil, 400, "InvalidUri", "1024"},
		} {
			a := s.do(tt.method, tt.url, "", tt.header...)
			if a.status != tt.status || a.code(t) != tt.code || !strings.Contains(a.body, tt.says) {
				t.Errorf("%s: %d %s, want %d %s with %q", name, a.status, a.body, tt.status, tt.code, tt.says)
			}
		}
		if got := paths(t, s.store, ""); !slices.Equal(got, []string{"b"}) {
			t.Errorf("what was refused left %q", got)
		}
	})
}

// An error of the bucket's own is told without its inside.
func TestInternalErrorTellsNothing(t *testing.T) {
	t.Parallel()
	c := newClock(time.Now())
	s := openStore(t, t.TempDir(), c.now)
	var log bytes.Buffer
	h := s.Handler(slog.New(slog.NewTextHandler(&log, nil)))
	u := s.URL(named1("b"), "r", time.Hour)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", u, nil))
	a := answer{w.Code, w.Header(), w.Body.String()}
	if a.status != 500 || a.code(t) != "InternalError" || strings.Contains(a.body, "closed") || !strings.Contains(log.String(), "closed") || strings.Contains(log.String(), "sig=") {
		t.Errorf("%d %s; log: %s", a.status, a.body, log.String())
	}
}

// A client that goes away in the middle leaves nothing behind.
func TestBodyThatEndsEarly(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir(), time.Now)
	req := httptest.NewRequestWithContext(t.Context(), "PUT", s.URL(named1("b"), "rcw", time.Hour), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	w := httptest.NewRecorder()
	s.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, req)
	if w.Code != 400 || w.Header().Get("x-ms-error-code") != "IncompleteBody" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := paths(t, s, ""); len(got) != 0 {
		t.Errorf("it left %q", got)
	}
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-1", "bytes=-5", "bytes=5-", "bytes=", "bytes=--", "bytes=9223372036854775807-", "bytes=0-18446744073709551615"} {
		f.Add(seed, int64(10))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		size = max(size, 0)
		offset, length, err := parseRange(text, size)
		if err == nil && (offset < 0 || length <= 0 || offset > size-length) {
			t.Errorf("%q of %d bytes is %d bytes from %d on", text, size, length, offset)
		}
	})
}

func FuzzParseBlockList(f *testing.F) {
	for _, seed := range []string{"<BlockList><Latest>eA==</Latest></BlockList>", "<BlockList/>", "<BlockList><Committed/></BlockList>", "<!DOCTYPE x [<!ENTITY a 'b'>]><BlockList><Latest>&a;</Latest></BlockList>"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ids, err := parseBlockList(body)
		if err != nil {
			var refusal *failure
			if !errors.As(err, &refusal) || refusal.status != 400 {
				t.Errorf("%q: %v is no refusal", body, err)
			}
			return
		}
		if n := bytes.Count(body, []byte("<")); len(ids) > n {
			t.Errorf("%q has %d blocks", body, len(ids))
		}
	})
}

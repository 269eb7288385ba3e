package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/iotest"

	"github.com/berthdev/berth/internal/memtest"
)

// pusher is a client that pushes blobs.
type pusher struct {
	t   *testing.T
	url string
}

func startPusher(t *testing.T) *pusher {
	t.Helper()
	r, err := Open(Config{Dir: t.TempDir(), Access: Access{User: "berth", Password: "a password of this test"}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return &pusher{t, srv.URL}
}

// do sends a request, and expects a status. at may be relative to the server's URL.
func (p *pusher) do(method, at string, body io.Reader, size int64, contentRange string, want int) (http.Header, error) {
	to, err := url.Parse(p.url)
	if err != nil {
		return nil, err
	}
	if to, err = to.Parse(at); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, to.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	req.SetBasicAuth("berth", "a password of this test")
	req.Header.Set("Content-Type", "application/octet-stream")
	if contentRange != "" {
		req.Header.Set("Content-Range", contentRange)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s %s: status %d, want %d: %s", method, to.Path, res.StatusCode, want, text)
	}
	return res.Header, err
}

const uploads = "/v2/berth/models/blobs/uploads/"

func digestOf(seed byte, size int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, memtest.Content(seed, size)) // neither fails
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// with adds a digest to an upload's URL.
func with(location, digest string) string {
	u, _ := url.Parse(location) // the registry made it
	q := u.Query()
	q.Set("digest", digest)
	u.RawQuery = q.Encode()
	return u.String()
}

// monolithic pushes a blob in one request.
func (p *pusher) monolithic(seed byte, size int64, digest string) error {
	h, err := p.do(http.MethodPost, uploads, nil, 0, "", 202)
	if err != nil {
		return err
	}
	_, err = p.do(http.MethodPut, with(h.Get("Location"), digest), memtest.Content(seed, size), size, "", 201)
	return err
}

// chunked pushes a blob in chunks. In the middle the connection breaks, and the client goes on with what the
// registry says it has.
func (p *pusher) chunked(seed byte, size, chunk int64, digest string) error {
	h, err := p.do(http.MethodPost, uploads, nil, 0, "", 202)
	if err != nil {
		return err
	}
	at := h.Get("Location")
	content, broke := memtest.Content(seed, size), false
	for offset := int64(0); offset < size; {
		n := min(chunk, size-offset)
		if !broke && offset >= size/2 {
			broke = true
			half := io.MultiReader(io.LimitReader(memtest.Content(seed, size), 0), iotest.ErrReader(errors.New("the connection broke")))
			if _, err := p.do(http.MethodPatch, at, half, n, fmt.Sprintf("%d-%d", offset, offset+n-1), 202); err == nil {
				return errors.New("a chunk that broke off was taken")
			}
			if h, err = p.do(http.MethodGet, at, nil, 0, "", 204); err != nil {
				return err
			}
			if got, want := h.Get("Range"), fmt.Sprintf("0-%d", offset-1); got != want {
				return fmt.Errorf("the registry says it has %s, want %s", got, want)
			}
			at = h.Get("Location")
		}
		h, err := p.do(http.MethodPatch, at, io.LimitReader(content, n), n, fmt.Sprintf("%d-%d", offset, offset+n-1), 202)
		if err != nil {
			return err
		}
		at, offset = h.Get("Location"), offset+n
	}
	_, err = p.do(http.MethodPut, with(at, digest), nil, 0, "", 201)
	return err
}

// A layer goes up in one piece or in chunks, and comes down as it was.
func TestPush(t *testing.T) {
	t.Parallel()
	p := startPusher(t)
	const size = 1 << 20
	digest := digestOf(1, size)
	for name, push := range map[string]func(digest string) error{
		"monolithic": func(d string) error { return p.monolithic(1, size, d) },
		"chunked":    func(d string) error { return p.chunked(1, size, 300<<10, d) },
	} {
		if err := push(digestOf(2, size)); err == nil {
			t.Errorf("%s: content without its digest was taken", name)
		}
		if err := push(digest); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v2/berth/models/blobs/"+digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("berth", "a password of this test")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := io.ReadAll(memtest.Content(1, size)); !bytes.Equal(got, want) {
		t.Error("what came down is not what went up")
	}
}

// A large layer passes through in constant memory. The process is both the registry and its client here.
func TestLargeLayer(t *testing.T) { //nolint:paralleltest // it measures the process
	size := memtest.Size(t)
	p := startPusher(t)
	memtest.Peak(t, "monolithic push", func() error { return p.monolithic(1, size, digestOf(1, size)) })
	memtest.Peak(t, "chunked push", func() error { return p.chunked(2, size, 64<<20, digestOf(2, size)) })
}

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/memtest"
)

// A large model goes up in blocks, over a restart, into an image and out of the registry. At no time does
// the process, which is both the server and its clients here, hold more than a bit of it.
func TestLargeModel(t *testing.T) { //nolint:paralleltest // it measures the process
	size := memtest.Size(t)
	const block = 64 << 20
	dir, name := t.TempDir(), blob.Name{Account: "acct", Container: "box", Path: "models/big.bin"}
	var store *blob.Store
	open := func() {
		var err error
		if store, err = blob.Open(t.Context(), blob.Folder(dir), bytes.Repeat([]byte("k"), 32), time.Now); err != nil {
			t.Fatal(err)
		}
	}
	open()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		store.Handler(slog.New(slog.NewTextHandler(t.Output(), nil))).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { _ = store.Close() })
	do := func(method, query string, body io.Reader, length int64, sum []byte) (*http.Response, error) {
		u := store.URL(name, "rcw", time.Hour) + query
		req, err := http.NewRequestWithContext(t.Context(), method, u, body)
		if err != nil {
			return nil, err
		}
		req.Host, req.URL.Scheme, req.URL.Host, req.ContentLength = req.URL.Host, "http", strings.TrimPrefix(srv.URL, "http://"), length
		if sum != nil {
			req.Header.Set("Content-SHA256", base64.StdEncoding.EncodeToString(sum))
		}
		res, err := srv.Client().Do(req)
		if err == nil && res.StatusCode >= 300 {
			text, _ := io.ReadAll(res.Body)
			return nil, fmt.Errorf("%s %s: %d %s", method, query, res.StatusCode, text)
		}
		return res, err
	}
	id := func(i int64) string {
		return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(i))) //nolint:gosec // it is not negative
	}
	content := func(i int64) io.Reader { return memtest.Content(byte(i), block) } //nolint:gosec // any byte does
	whole := sha256.New()
	upload := func(from, to int64) error {
		for i := from; i < to; i++ {
			sum := sha256.New()
			if _, err := io.Copy(io.MultiWriter(sum, whole), content(i)); err != nil {
				return err
			}
			res, err := do(http.MethodPut, "&comp=block&blockid="+url.QueryEscape(id(i)), content(i), block, sum.Sum(nil))
			if err != nil {
				return err
			}
			_ = res.Body.Close() // it was only read
		}
		return nil
	}
	blocks := size / block
	memtest.Peak(t, "half of the upload", func() error { return upload(0, blocks/2) })
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	open()
	memtest.Peak(t, "the rest, after a restart", func() error { return upload(blocks/2, blocks) })
	memtest.Peak(t, "commit", func() error {
		var list strings.Builder
		list.WriteString("<BlockList>")
		for i := range blocks {
			list.WriteString("<Latest>" + id(i) + "</Latest>")
		}
		list.WriteString("</BlockList>")
		res, err := do(http.MethodPut, "&comp=blocklist", strings.NewReader(list.String()), int64(list.Len()), nil)
		if err == nil {
			_ = res.Body.Close() // it was only read
		}
		return err
	})
	memtest.Peak(t, "download", func() error {
		res, err := do(http.MethodGet, "", nil, 0, nil)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }() // it was only read
		sum := sha256.New()
		if n, err := io.Copy(sum, res.Body); err != nil || n != size {
			return fmt.Errorf("%d of %d bytes: %w", n, size, err)
		}
		if !bytes.Equal(sum.Sum(nil), whole.Sum(nil)) {
			t.Error("what came down is not what went up")
		}
		return nil
	})
	r := startRegistry(t, t.TempDir())
	var ref Reference
	memtest.Peak(t, "packing into an image and pushing", func() (err error) {
		ref, err = r.Files(t.Context(), "berth/models", "big", []File{{Path: "big.bin", Size: size, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return store.Read(ctx, name, 0, -1)
		}}})
		return err
	})
	memtest.Peak(t, "pulling", func() error {
		layers, err := pull(t, r, ref).Layers()
		if err != nil {
			return err
		}
		rc, err := layers[0].Compressed() // verifies the digest
		if err != nil {
			return err
		}
		defer func() { _ = rc.Close() }() // it was only read
		n, err := io.Copy(io.Discard, rc)
		if err == nil && n < size {
			t.Errorf("the layer has %d bytes of %d", n, size)
		}
		return err
	})
}

package blob

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/memtest"
)

// A large blob goes to a cloud in parts, of which a few are in memory at once. The S3 server of this test counts
// what it is sent and keeps nothing.
func TestLargeBlobInParts(t *testing.T) { //nolint:paralleltest // it measures the process
	size := memtest.Size(t)
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.Method == http.MethodPut:
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				t.Error(err)
			}
			if q.Get("partNumber") != "" {
				got.Add(n)
			}
			w.Header().Set("ETag", `"part"`)
		case r.Method == http.MethodPost && q.Has("uploads"):
			_, _ = w.Write([]byte(`<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>`))
		case r.Method == http.MethodPost:
			_, _ = w.Write([]byte(`<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>`))
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case q.Has("list-type"):
			_, _ = w.Write([]byte(`<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`))
		}
	}))
	t.Cleanup(srv.Close)
	s, err := Open(t.Context(), "s3://models?region=eu-west-1&anonymous=true&use_path_style=true&endpoint="+url.QueryEscape(srv.URL), testKey, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	memtest.Peak(t, "upload to S3", func() error {
		return s.Write(t.Context(), named1("big"), Upload{}, memtest.Content(1, size))
	})
	if n := got.Load(); n < size { // checksums of the protocol come on top
		t.Errorf("%d bytes arrived of %d", n, size)
	}
}

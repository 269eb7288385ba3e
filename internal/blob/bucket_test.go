package blob

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"gocloud.dev/blob/azureblob"
)

// each runs a test on a store in each kind of bucket that needs no cloud.
func each(t *testing.T, test func(t *testing.T, s *Store, c *clock)) {
	for name, open := range map[string]func(t *testing.T, now func() time.Time) *Store{
		"folder": func(t *testing.T, now func() time.Time) *Store { return openStore(t, t.TempDir(), now) },
		"s3":     s3Store,
		"azblob": azureStore,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClock(time.Now().Truncate(time.Second)) // as signatures have it
			test(t, open(t, c.now), c)
		})
	}
}

// s3 starts an S3 server without credentials, and is the parameters of a URL that lead to it.
func s3(t *testing.T, buckets ...string) (parameters string) {
	t.Helper()
	backend := s3mem.New()
	for _, b := range buckets {
		if err := backend.CreateBucket(b); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(gofakes3.New(backend, gofakes3.WithIntegrityCheck(true)).Server())
	t.Cleanup(srv.Close)
	return "region=eu-west-1&anonymous=true&use_path_style=true&endpoint=" + url.QueryEscape(srv.URL)
}

func s3Store(t *testing.T, now func() time.Time) *Store {
	t.Helper()
	s, err := Open(t.Context(), "s3://models?"+s3(t, "models"), testKey, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// azureStore is a store in a container of another store's: Azure's own client library talks to this package's handler.
// The library has its credentials of the process's environment, so that the URL cannot be used here.
func azureStore(t *testing.T, now func() time.Time) *Store {
	t.Helper()
	inner := openStore(t, t.TempDir(), time.Now)
	handler := inner.Handler(slog.New(slog.NewTextHandler(t.Output(), nil)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = "inner." + Domain
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	q := url.Values{"sv": {signedVersion}, "sr": {"c"}, "sp": {"rcwdl"}, "se": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}}
	q.Set("sig", inner.signature(Name{Account: "inner", Container: "models"}, q))
	client, err := container.NewClientWithNoCredential(srv.URL+"/models?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := azureblob.OpenBucket(t.Context(), client, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := try(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s := &Store{bucket: b, key: bytes.Repeat([]byte("k"), 32), now: now, opened: time.Now(), limit: maxKey}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Who chose a URL is told which rule it breaks and what to give instead, and nobody reads a password in the answer.
func TestBadURL(t *testing.T) {
	t.Parallel()
	for u, want := range map[string]string{
		"":                                "begins with its kind",
		"models":                          "begins with its kind",
		"%":                               "not a URL",
		"http://models":                   "no buckets of the kind http",
		"mem://":                          "no buckets of the kind mem",
		"s3://":                           "names no bucket. Give one like s3://bucket",
		"gs:///x":                         "names no bucket. Give one like gs://bucket",
		"s3://models/a/b/":                "s3://models?prefix=a/b/",
		"s3://AKIA:hunter2@models":        "do not belong in a bucket's URL. Put them where the cloud's own tools look for them: AWS_ACCESS_KEY_ID",
		"azblob://me:hunter2@models":      "AZURE_STORAGE_KEY",
		"s3://models:hunter2@x:y/":        "not a URL",
		"file://var/lib":                  "three slashes",
		"file:var/lib":                    "three slashes",
		"s3://models?password=hunter2":    "AWS_ACCESS_KEY_ID",
		"gs://models?password=hunter2":    "gs://models",
		"azblob://models?secret=hunter2":  "AZURE_STORAGE_ACCOUNT",
		"file:///dev/null/x":              "Give a folder that Berth may write to",
		"file:///dev/null?secret=hunter2": "Give a folder that Berth may write to",
	} {
		_, err := Open(t.Context(), u, testKey, time.Now)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant something with %q", u, err, want)
		}
	}
}

// A bucket that cannot be used is found out when it is opened.
func TestUnusableBucket(t *testing.T) {
	t.Parallel()
	forbidden := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut { // reading is allowed
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`))
			return
		}
		_, _ = w.Write([]byte(`<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`))
	}))
	t.Cleanup(forbidden.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	at := func(endpoint string) string {
		return "s3://models?region=eu-west-1&anonymous=true&use_path_style=true&endpoint=" + url.QueryEscape(endpoint)
	}
	for name, tt := range map[string]struct{ url, want string }{
		"no such bucket":  {"s3://models?" + s3(t, "others"), "listing its objects: "},
		"the fix":         {"s3://models?" + s3(t, "others"), "Make the bucket, which Berth does not"},
		"not allowed":     {at(forbidden.URL), "allowed to list, read, write and delete"},
		"what is allowed": {at(forbidden.URL), "writing an object"},
		"nobody listens":  {at("http://" + nobody), "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(t.Context(), tt.url, testKey, time.Now)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "the bucket s3://models cannot be used: ") {
				t.Errorf("%v\nwant something with %q", err, tt.want)
			}
		})
	}
}

// One bucket serves several installations when each has its prefix.
func TestPrefix(t *testing.T) {
	t.Parallel()
	parameters := s3(t, "models")
	var stores []*Store
	for _, prefix := range []string{"one/", "two/"} {
		s, err := Open(t.Context(), "s3://models?prefix="+prefix+"&"+parameters, testKey, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
	}
	write(t, stores[0], "a", "one's")
	if got := paths(t, stores[1], ""); len(got) != 0 {
		t.Errorf("the other installation lists %q", got)
	}
	if _, err := stores[1].Stat(t.Context(), named1("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("the other installation finds the blob: %v", err)
	}
}

// A folder keeps names whose parts its file system keeps.
func TestLongPartOfName(t *testing.T) {
	t.Parallel()
	c := newClock(time.Now().Truncate(time.Second))
	s := serve(t, openStore(t, t.TempDir(), c.now), c)
	a := s.do("PUT", s.signed(strings.Repeat("x", 300), "rcw", ""), "", "x-ms-blob-type", "BlockBlob")
	if code := a.code(t); a.status != 400 || code != "InvalidResourceName" || !strings.Contains(a.body, "Shorten") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := paths(t, s.store, ""); len(got) != 0 {
		t.Errorf("what was refused left %q", got)
	}
}

// Names that a bucket cannot keep are the client's error.
func TestLongName(t *testing.T) {
	t.Parallel()
	c := newClock(time.Now().Truncate(time.Second))
	s := serve(t, s3Store(t, c.now), c)
	long := strings.Repeat("x/", 511)
	for _, method := range []string{"GET", "PUT"} {
		a := s.do(method, s.signed(long, "rcw", ""), "", "x-ms-blob-type", "BlockBlob")
		if code := a.code(t); a.status != 400 || code != "InvalidResourceName" {
			t.Errorf("%s of a name of %d bytes: %d %s", method, len(long), a.status, code)
		}
	}
	s.put(strings.Repeat("x/", 500), "fits")
}

// An S3 object has at most 10,000 parts.
func TestParts(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, maxBlob, 10 << 30, 78 << 30, 79 << 30, 5 << 40} {
		p := int64(part(size))
		if n := (size + p - 1) / p; p < partSize || n > maxParts || p > partSize && n < maxParts-1 {
			t.Errorf("%d bytes go up in %d parts of %d bytes", size, n, p)
		}
	}
}

// What was on its way when a process was killed is gone after the next start; what is on its way now is not.
func TestSweepAfterKill(t *testing.T) {
	t.Parallel()
	dir, n := t.TempDir(), named1("models/big")
	left := []string{crash(t, dir, n.object(), time.Minute), crash(t, dir, n.block("1"), time.Minute)}
	s := openStore(t, dir, time.Now)
	write(t, s, "models/t.18a5b6c7d8e9f00.tmp", "a blob of this name")
	current := crash(t, dir, named1("models/current").object(), -time.Minute)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if _, err := os.Stat(f); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", filepath.Base(f), err)
		}
	}
	if _, err := os.Stat(current); err != nil {
		t.Error(err)
	}
	if got := paths(t, s, ""); len(got) != 1 {
		t.Errorf("the blobs are %q", got)
	}
}

package tracing

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/berthdev/berth/internal/tracing/tracingtest"
)

var quiet = slog.New(slog.DiscardHandler)

// set sets variables until the test ends.
func set(t *testing.T, vars map[string]string) {
	t.Helper()
	for k, v := range vars {
		t.Setenv(k, v)
	}
}

func started(t *testing.T, log *slog.Logger) *Tracer {
	t.Helper()
	tr, err := Start(t.Context(), "berth", log, semconv.ServiceVersion("1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Stop)
	return tr
}

func TestOffWithoutEndpoint(t *testing.T) {
	for name, vars := range map[string]map[string]string{
		"nothing":  {},
		"disabled": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
		"none":     {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
		"empty":    {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
	} {
		t.Run(name, func(t *testing.T) {
			set(t, vars)
			tr := started(t, quiet)
			if tr != nil {
				t.Fatal("it is on")
			}
			ctx, span := tr.Begin(t.Context(), "x")
			span.End()
			h := http.NotFoundHandler()
			if Inject(ctx, http.Header{}); ctx != t.Context() || span.IsRecording() || Parent(ctx) != "" || tr.Handler(h) == nil {
				t.Error("something is told")
			}
		})
	}
}

func TestBadSettings(t *testing.T) {
	folder := t.TempDir()
	empty := filepath.Join(folder, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ variable, value, want string }{
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is not a URL of the form http://host:4318"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://", "is not a URL of the form http://host:4318"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "unix:///x", "is not a URL"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", `is "grpc"; Berth speaks http/protobuf alone`},
		{"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd", `is "zstd"; it is gzip or none`},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", `is "10s"; it is a number of milliseconds`},
		{"OTEL_EXPORTER_OTLP_HEADERS", "SECRET", "is not a list of name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "a=b,x y=SECRET", "is not a list of name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "x=SECRET%zz", "is not a list of name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "x=SECRET%0a", "is not a list of name=value"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", filepath.Join(folder, "none"), "no such file"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", empty, "has no certificate in PEM"},
		{"OTEL_EXPORTER_OTLP_CLIENT_KEY", empty, "go together"},
		{"OTEL_TRACES_EXPORTER", "console", `is "console"; it is otlp or none`},
		{"OTEL_TRACES_SAMPLER", "jaeger_remote", "it is always_on, always_off or traceidratio"},
		{"OTEL_RESOURCE_ATTRIBUTES", "SECRET", "is not a list of name=value"},
	} {
		t.Run(tt.variable+"="+tt.value, func(t *testing.T) {
			set(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", tt.variable: tt.value})
			tr, err := Start(t.Context(), "berth", quiet)
			if tr != nil || err == nil || !strings.Contains(err.Error(), tt.variable) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("Start: %v, want one that says that %s %s", err, tt.variable, tt.want)
			}
		})
	}
	set(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "traceidratio"})
	for _, share := range []string{"2", "-1", "many", "NaN", ""} {
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", share)
		if _, err := Start(t.Context(), "berth", quiet); err == nil || !strings.Contains(err.Error(), "from 0 to 1") {
			t.Errorf("a share of %q: %v", share, err)
		}
	}
}

func TestSettingsTakeEffect(t *testing.T) {
	c := tracingtest.New(t)
	set(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1/lost", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.URL + "/v1/traces", "OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_SAMPLER": "",
		"OTEL_EXPORTER_OTLP_HEADERS": "x-lost=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key = a%20key, x-two=2", "OTEL_RESOURCE_ATTRIBUTES": "team=blue",
	})
	tr := started(t, quiet)
	_, span := tr.Begin(t.Context(), "x")
	End(span, errors.New("SECRET"))
	tr.Stop()
	if s := c.Spans(); len(s) != 1 || s[0].Service != "mine" || !s[0].Failed || !strings.Contains(c.Text(), "team:blue") || !strings.Contains(c.Text(), "service.version:1") || strings.Contains(c.Text(), "SECRET") {
		t.Errorf("told: %v", c.Text())
	}
	if h := c.Headers(); len(h) != 1 || h[0].Get("X-Api-Key") != "a key" || h[0].Get("X-Two") != "2" || h[0].Get("X-Lost") != "" {
		t.Errorf("headers: %v", h)
	}
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	tr = started(t, quiet)
	_, span = tr.Begin(t.Context(), "y")
	span.End()
	tr.Stop()
	if s := c.Spans(); len(s) != 1 {
		t.Errorf("told without sampling: %v", s)
	}
}

func TestCompression(t *testing.T) {
	var got atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("not gzip: %v", err)
			return
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Error(err)
		}
		got.Store(string(data))
	}))
	t.Cleanup(s.Close)
	set(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": s.URL + "/", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"})
	tr := started(t, quiet)
	_, span := tr.Begin(t.Context(), "name-of-the-span")
	span.End()
	tr.Stop()
	if text, _ := got.Load().(string); !strings.Contains(text, "name-of-the-span") {
		t.Errorf("the collector got %q", text)
	}
}

// answers is a transport without a network.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func TestSentAgainOnlyWhereOTLPAllowsIt(t *testing.T) {
	for _, tt := range []struct {
		status     int
		retryAfter string
		sent       int
		took       time.Duration
	}{
		{status: 400, sent: 1},
		{status: 401, sent: 1},
		{status: 500, sent: 1},
		{status: 503, sent: tries, took: 7 * time.Second},
		{status: 429, retryAfter: "3", sent: tries, took: 10 * time.Second},
		{status: 0, sent: tries, took: 7 * time.Second}, // no answer
	} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			c := &client{settings: &settings{url: "http://collector/?key=SECRET", header: http.Header{}}, http: &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) {
				if sent++; tt.status == 0 {
					return nil, errors.New("no route to it")
				}
				return &http.Response{StatusCode: tt.status, Status: http.StatusText(tt.status), Header: http.Header{"Retry-After": {tt.retryAfter}}, Body: io.NopCloser(strings.NewReader("SECRET"))}, nil
			})}}
			began := time.Now()
			err := c.UploadTraces(t.Context(), nil)
			if took := time.Since(began); sent != tt.sent || took != tt.took || err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%d: sent %d times in %s: %v", tt.status, sent, took, err)
			}
		})
	}
}

func TestCollectorThatComesBack(t *testing.T) {
	var down atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	var log bytes.Buffer
	tr := started(t, slog.New(slog.NewTextHandler(&log, nil)))
	for _, away := range []bool{false, true, true, true, false, false} {
		down.Store(away)
		_, span := tr.Begin(t.Context(), "x")
		span.End()
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "401 Unauthorized") || !strings.Contains(lines[1], "lost=3") {
		t.Errorf("the log:\n%s", log.String())
	}
}

func TestForFrontEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	s := httptest.NewTLSServer(nil)
	s.Close()
	if err := os.WriteFile(file, pemOf(s), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		vars map[string]string
		env  map[string]string
		file string
		err  string
	}{
		{name: "off"},
		{name: "on", vars: map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "k=v", "OTEL_EXPORTER_OTLP_CERTIFICATE": file, "OTEL_SERVICE_NAME": "mine", "OTHER": "x", "OTEL_TRACES_SAMPLER": "always_on",
		}, env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "k=v", "OTEL_TRACES_SAMPLER": "always_on"}, file: "OTEL_EXPORTER_OTLP_CERTIFICATE"},
		{name: "loopback", vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.9:4318"}, err: ErrLoopback.Error()},
		{name: "localhost", vars: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, err: ErrLoopback.Error()},
		{name: "another", vars: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces", FrontEndEndpoint: "http://192.0.2.1:4318"}, env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://192.0.2.1:4318"}},
		{name: "another alone", vars: map[string]string{FrontEndEndpoint: "http://192.0.2.1:4318"}, err: "set OTEL_EXPORTER_OTLP_ENDPOINT, too"},
		{name: "another, malformed", vars: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", FrontEndEndpoint: "192.0.2.1"}, err: FrontEndEndpoint + " is not a URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set(t, tt.vars)
			e, err := ForFrontEnds()
			if tt.err != "" || err != nil {
				if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("ForFrontEnds: %v, want %q", err, tt.err)
				}
				return
			}
			if e == nil {
				e = &Elsewhere{}
			}
			if diff := cmp.Diff(tt.env, e.Env); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
			if tt.file != "" && !strings.Contains(string(e.Files[tt.file]), "BEGIN CERTIFICATE") {
				t.Errorf("files: %q", e.Files)
			}
		})
	}
}

// pemOf is a server's certificate.
func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]})
}

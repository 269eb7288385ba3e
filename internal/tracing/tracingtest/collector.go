// Package tracingtest has a collector for tests, which takes OTLP over HTTP as real ones do.
package tracingtest

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span that a collector was told of.
type Span struct {
	Service          string // of the process that made it
	Name, Kind       string // Kind is server, client or internal
	Trace, ID        string // in hex
	Parent           string // "" for a trace's first
	Start, End       uint64 // nanoseconds since 1970
	Failed           bool
	Attributes       map[string]string
	resource, events string
}

// Collector is an OTLP collector.
type Collector struct {
	URL string

	t     *testing.T
	mu    sync.Mutex
	spans []Span
	seen  []http.Header
}

// New starts a collector, and points the process's OTEL_EXPORTER_OTLP_ENDPOINT at it until the test ends.
func New(t *testing.T) *Collector {
	t.Helper()
	c := &Collector{t: t}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.URL = s.URL
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	return c
}

func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var in collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.t.Errorf("the collector got %s %s of %s: %v", r.Method, r.URL.Path, r.Header.Get("Content-Type"), err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, r.Header)
	for _, rs := range in.ResourceSpans {
		about := flat(rs.Resource.GetAttributes())
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, Span{
					Service: about["service.name"], Name: s.Name, Kind: strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")), Trace: hex.EncodeToString(s.TraceId),
					ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId), Start: s.StartTimeUnixNano, End: s.EndTimeUnixNano,
					Failed: s.Status.GetCode() == traces.Status_STATUS_CODE_ERROR, Attributes: flat(s.Attributes),
					resource: fmt.Sprint(about), events: fmt.Sprint(s.Events, s.Links, s.Status, s.TraceState),
				})
			}
		}
	}
}

func flat(attrs []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range attrs {
		switch v := kv.Value.GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.Key] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			out[kv.Key] = fmt.Sprint(v.BoolValue)
		default:
			out[kv.Key] = kv.Value.String()
		}
	}
	return out
}

// Spans are the spans so far, in the order of their beginnings.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(c.spans), func(a, b Span) int {
		if a.Start != b.Start {
			return int(int64(a.Start - b.Start))
		}
		return 0
	})
}

// Headers are those of the requests so far.
func (c *Collector) Headers() []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

// Text is all that the collector was told, to look for what it must not be told.
func (c *Collector) Text() string {
	var b strings.Builder
	for _, s := range c.Spans() {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// Tree writes spans as lines, each indented below its parent: kind, name and, for the attributes named, their values.
func Tree(spans []Span, attributes ...string) string {
	var b strings.Builder
	known := map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	var below func(depth int, parent func(Span) bool)
	below = func(depth int, parent func(Span) bool) {
		for _, s := range spans {
			if !parent(s) {
				continue
			}
			b.WriteString(strings.Repeat("  ", depth) + s.Kind + " " + s.Name)
			for _, a := range attributes {
				if v, ok := s.Attributes[a]; ok {
					b.WriteString(" " + a[strings.LastIndexByte(a, '.')+1:] + "=" + v)
				}
			}
			if s.Failed {
				b.WriteString(" failed")
			}
			b.WriteString("\n")
			below(depth+1, func(c Span) bool { return c.Parent == s.ID })
		}
	}
	below(0, func(s Span) bool { return !known[s.Parent] })
	return b.String()
}

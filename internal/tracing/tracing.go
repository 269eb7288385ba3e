// Package tracing tells an OpenTelemetry collector what Berth's processes do. The standard OTEL_* variables
// say where it is and what is told; without an endpoint nothing is told, and asking costs next to nothing.
//
// Spans get no query strings, no headers and no texts of errors: a query may hold a signature, a header a key, and
// what a collector is told leaves the house.
package tracing

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names the code that makes spans.
const scope = "github.com/berthdev/berth"

// flushTime is what spans get to reach the collector when a process ends.
const flushTime = 5 * time.Second

// Attributes of Berth's own.
const (
	RequestID     = attribute.Key("berth.request_id")
	CorrelationID = attribute.Key("berth.correlation_id")
)

var w3c = propagation.TraceContext{}

// Tracer begins traces. nil is one that is off.
type Tracer struct {
	provider *sdk.TracerProvider
	log      *slog.Logger
}

// Start begins to export as the environment says; it returns nil when that names no collector. service is the name
// for which OTEL_SERVICE_NAME is another; attrs say which of its processes this is. Errors name the variable that
// cannot be used, and do not quote its value.
func Start(ctx context.Context, service string, log *slog.Logger, attrs ...attribute.KeyValue) (*Tracer, error) {
	where, err := read()
	if where == nil || err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, newClient(where))
	if err != nil {
		return nil, err
	}
	what, err := resource.New(ctx, resource.WithAttributes(append(attrs, semconv.ServiceName(service))...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES is not a list of name=value, separated by commas")
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(&calm{SpanExporter: exporter, log: log}), sdk.WithResource(what))
	return &Tracer{provider: provider, log: log}, nil
}

// calm says once that a collector cannot be reached, and once that it can again. What it was to be told meanwhile is
// lost; nobody waits for it.
type calm struct {
	sdk.SpanExporter
	log *slog.Logger

	mu   sync.Mutex
	lost int // spans since it was last reached
}

func (c *calm) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil && c.lost > 0:
		c.log.InfoContext(ctx, "the collector takes traces again", "lost", c.lost)
		c.lost = 0
	case err != nil && c.lost == 0:
		c.log.WarnContext(ctx, "the collector does not take traces; they are dropped until it does, and nothing waits for it", "error", err)
	}
	if err != nil {
		c.lost += len(spans)
	}
	return nil // else the library would log each failure
}

// Flush exports what there is now.
func (t *Tracer) Flush(ctx context.Context) error { return t.provider.ForceFlush(ctx) }

// Stop exports what there is, for at most flushTime.
func (t *Tracer) Stop() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.WarnContext(ctx, "the last spans did not reach the collector", "error", err)
	}
}

// Begin begins a span: below that of ctx, or a trace's first.
func (t *Tracer) Begin(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if t == nil {
		return ctx, noop.Span{}
	}
	return t.provider.Tracer(scope).Start(ctx, name, opts...)
}

// Begin begins a span below that of ctx. Where there is none, nothing is told.
func Begin(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	return trace.SpanFromContext(ctx).TracerProvider().Tracer(scope).Start(ctx, name, opts...)
}

// End ends a span; err says how it failed, by kind and not in its words.
func End(span trace.Span, err error) {
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		Fail(span, semconv.ErrorTypeKey.String("canceled"))
	case errors.Is(err, context.DeadlineExceeded):
		Fail(span, semconv.ErrorTypeKey.String("timeout"))
	default:
		Fail(span, semconv.ErrorType(err))
	}
	span.End()
}

// Fail marks a span as failed, for a reason.
func Fail(span trace.Span, reason attribute.KeyValue) {
	span.SetAttributes(reason)
	span.SetStatus(codes.Error, "")
}

// Inject makes a request say that it belongs to the span of ctx.
func Inject(ctx context.Context, h http.Header) { w3c.Inject(ctx, propagation.HeaderCarrier(h)) }

// Parent is the span of ctx as text (a traceparent), "" for none.
func Parent(ctx context.Context) string {
	m := propagation.MapCarrier{}
	w3c.Inject(ctx, m)
	return m["traceparent"]
}

// Under puts ctx below a span that Parent wrote.
func Under(ctx context.Context, parent string) context.Context {
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
}

type routeKey struct{}

// Route says which route a request took, such as /users/{id}: spans are named by it.
func Route(ctx context.Context, route string) {
	if r, ok := ctx.Value(routeKey{}).(*string); ok {
		*r = route
	}
}

// Handler makes spans of requests, each below the one that the caller names. The route is what Route says or, where it
// says nothing, the pattern of a mux.
func (t *Tracer) Handler(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { // an answer that broke off is one, too
			route := r.Context().Value(routeKey{}).(*string)
			if _, path, ok := strings.Cut(r.Pattern, "/"); ok && *route == "" && path != "" {
				*route = "/" + path
			}
			span := trace.SpanFromContext(r.Context())
			if *route != "" {
				span.SetName(r.Method + " " + *route)
				span.SetAttributes(semconv.HTTPRoute(*route))
			}
			for key, header := range map[attribute.Key]string{RequestID: "x-ms-request-id", CorrelationID: "x-ms-correlation-request-id", semconv.ErrorTypeKey: "x-ms-error-code"} {
				if v := w.Header().Get(header); v != "" {
					span.SetAttributes(key.String(v))
				}
			}
		}()
		next.ServeHTTP(w, r)
	})
	named := func(_ string, r *http.Request) string {
		if route := *r.Context().Value(routeKey{}).(*string); route != "" {
			return r.Method + " " + route
		}
		return r.Method
	}
	spans := otelhttp.NewHandler(inner, "", otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(w3c), otelhttp.WithSpanNameFormatter(named))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		spans.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, new(string))))
	})
}

package frontend

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/berthdev/berth/internal/frontend/wire"
	"github.com/berthdev/berth/internal/tracing"
)

// traced is a front end whose requests are told of, nil for one that tells nothing. Then a request costs a look at it
// more, and a caller's own trace goes to the pod with the other headers.
type traced struct {
	outer, inner http.Handler
}

// Trace tells what becomes of requests. Call it before the first one.
func (f *FrontEnd) Trace(t *tracing.Tracer) {
	if t == nil {
		return
	}
	f.traced = &traced{outer: t.Handler(f.told(false)), inner: t.Handler(f.told(true))}
}

// told serves a request and tells the request's span what came of it. All that there is to tell is in the headers of the
// answer, whoever wrote them: the router, the model, or the front end that owns the service.
func (f *FrontEnd) told(fromPeer bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		span, whole := trace.SpanFromContext(r.Context()), false
		defer func() {
			h := w.Header()
			if t, ok := parse(r.URL.Path); ok {
				tracing.Route(r.Context(), routeOf(t))
				span.SetAttributes(attribute.String("berth.service", t.service))
			}
			if v := h.Get(VersionHeader); v != "" {
				span.SetAttributes(attribute.String("berth.version", v))
			}
			if by := h.Get(answeredBy); by != "" {
				span.SetAttributes(attribute.String("berth.answered_by", by))
			}
			if reason := h.Get(reasonHeader); reason != "" {
				span.SetAttributes(attribute.String("berth.reason", reason))
			}
			if !whole {
				tracing.Fail(span, semconv.ErrorTypeKey.String("AnswerBrokeOff"))
			}
		}()
		f.serve(w, r, fromPeer)
		if w.Header().Get(answeredBy) == "" && r.Context().Err() != nil {
			w.WriteHeader(statusClientGone) // for the span; nobody is left to read it
			tracing.Fail(span, semconv.ErrorTypeKey.String("ClientGone"))
		}
		whole = true
	})
}

// routeOf is what requests to a service have in common with those to others.
func routeOf(t target) string {
	if t.version != "" {
		return "/api/v1/service/{service}/version/{version}" + strings.TrimSuffix(t.path, "/")
	}
	return "/api/v1/service/{service}" + strings.TrimSuffix(t.path, "/")
}

// leg is a part of a request's way, nil when nothing is told.
type leg struct{ span trace.Span }

// queued begins the wait for a pod.
func (c *passage) queued() *leg {
	if c.front.traced == nil {
		return nil
	}
	_, span := tracing.Begin(c.r.Context(), "wait for a replica")
	return &leg{span}
}

// served ends the wait for a pod.
func (l *leg) served(why refusal) {
	if l == nil {
		return
	}
	if why != 0 {
		tracing.Fail(l.span, semconv.ErrorTypeKey.String(map[refusal]string{overloaded: "Overloaded", noReplicas: "NoReadyReplicas", clientGone: "ClientGone"}[why]))
	}
	l.span.End()
}

// leaves begins the way of a request to a pod, the try-th one, or to another front end. The request says so to who takes it.
func (c *passage) leaves(what, addr string, try int) *leg {
	if c.front.traced == nil {
		return nil
	}
	host, port, _ := net.SplitHostPort(addr)
	attrs := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(c.r.Method), semconv.ServerAddress(host)}
	if n, err := strconv.Atoi(port); err == nil {
		attrs = append(attrs, semconv.ServerPort(n))
	}
	if try > 1 {
		attrs = append(attrs, semconv.HTTPRequestResendCount(try-1))
	}
	ctx, span := tracing.Begin(c.r.Context(), what, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	tracing.Inject(ctx, c.r.Header)
	return &leg{span}
}

// arrived ends a request's way with the answer's header, or without one.
func (l *leg) arrived(a *wire.Answer, err error) {
	if l == nil {
		return
	}
	if err == nil {
		l.span.SetAttributes(semconv.HTTPResponseStatusCode(a.StatusCode))
		if a.StatusCode >= http.StatusInternalServerError {
			l.span.SetStatus(codes.Error, "")
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		tracing.Fail(l.span, semconv.ErrorTypeKey.String("ScoringTimeout"))
		err = nil
	}
	tracing.End(l.span, err)
}

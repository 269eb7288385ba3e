package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// client sends OTLP over HTTP. It is here because OpenTelemetry's own, otlptracehttp, links gRPC with its debug pages,
// whose templates keep the linker from leaving anything out: azureml-fe would be twice as large.
type client struct {
	*settings
	http *http.Client
}

var _ otlptrace.Client = (*client)(nil)

func newClient(s *settings) *client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if s.tls != nil {
		t.TLSClientConfig = s.tls
	}
	return &client{settings: s, http: &http.Client{Transport: t, Timeout: s.timeout}}
}

func (*client) Start(context.Context) error { return nil }

func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

const (
	tries     = 4
	firstWait = time.Second // doubled from try to try
)

// UploadTraces sends spans, and sends them again where OTLP allows that.
func (c *client) UploadTraces(ctx context.Context, spans []*traces.ResourceSpans) error {
	body, err := proto.Marshal(&traces.TracesData{ResourceSpans: spans}) // on the wire the same as an ExportTraceServiceRequest
	if err != nil {
		return err
	}
	if c.gzip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body) // memory takes all
		_ = z.Close()
		body = b.Bytes()
	}
	for n := 0; ; n++ {
		wait, err := c.send(ctx, body)
		if err == nil || wait == 0 || n == tries-1 {
			return err
		}
		timer := time.NewTimer(max(wait, firstWait<<n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// send tries once. wait is 0 when another try is of no use.
func (c *client) send(ctx context.Context, body []byte) (wait time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header = c.header.Clone()
	r.Header.Set("Content-Type", "application/x-protobuf")
	if c.gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(r)
	var u *url.Error
	if errors.As(err, &u) {
		return firstWait, u.Err // without the address, which may hold a key
	}
	if err != nil {
		return firstWait, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // 0 for a date or nothing
		wait = max(firstWait, time.Duration(seconds)*time.Second)
	}
	if resp.StatusCode/100 != 2 {
		return wait, fmt.Errorf("it answers %s", resp.Status)
	}
	return 0, nil
}

// Package armclient is a small generic ARM client: it sends requests, follows pages and
// waits for long-running operations. It is built on Azure's own core library, so the CLI
// is one more ordinary client of the public API.
package armclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// Config says where ARM is and who asks.
type Config struct {
	URL          string // of the installation
	CAFile       string // its certificate authority
	Proxy        string // the installation's proxy, which answers for Azure's host names; "" for none
	Tenant       string
	ClientID     string
	ClientSecret string
	Version      string // of the program, for its User-Agent
	Log          func(format string, args ...any)
}

// Client sends requests to ARM.
type Client struct {
	url      string
	pipeline runtime.Pipeline
	cred     azcore.TokenCredential
	http     *http.Client
	log      func(format string, args ...any)
}

// Error is an ARM error as a client sees it.
type Error struct {
	Status    int
	Code      string   `json:"code"`
	Message   string   `json:"message"`
	Target    string   `json:"target"`
	Details   []*Error `json:"details"`
	RequestID string
}

func (e *Error) Error() string { return "(" + e.Code + ") " + e.Message }

const audience = "https://management.azure.com/.default"

// New makes a client. It does not connect yet.
func New(c Config) (*Client, error) {
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the installation's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.CAFile)
	}
	route, err := through(c.URL, c.Proxy)
	if err != nil {
		return nil, err
	}
	hc := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		Proxy: route,
	}}
	options := azcore.ClientOptions{
		Transport: hc,
		Retry:     policy.RetryOptions{MaxRetries: 3, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: 5 * time.Second},
		Telemetry: policy.TelemetryOptions{ApplicationID: "berth"},
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: c.URL},
	}
	cred, err := azidentity.NewClientSecretCredential(c.Tenant, c.ClientID, c.ClientSecret, &azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		return nil, err
	}
	log := c.Log
	if log == nil {
		log = func(string, ...any) {}
	}
	auth := runtime.NewBearerTokenPolicy(cred, []string{audience}, nil)
	return &Client{
		url: strings.TrimSuffix(c.URL, "/"), cred: cred, http: hc, log: log,
		pipeline: runtime.NewPipeline("berth", c.Version, runtime.PipelineOptions{PerRetry: []policy.Policy{auth}}, &options),
	}, nil
}

// through returns how the installation is reached, whatever the environment says: its own address directly,
// Azure's names, which it hands out for workspaces and their storage, through its proxy.
func through(own, proxy string) (func(*http.Request) (*url.URL, error), error) {
	if proxy == "" {
		return nil, nil
	}
	address, err := url.Parse(own)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(proxy)
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) (*url.URL, error) {
		if r.URL.Host == address.Host {
			return nil, nil
		}
		return to, nil
	}, nil
}

// HTTP is the client underneath. It reaches the installation's host names and trusts them, and adds no token:
// it is for addresses that carry their own permission, or need none.
func (c *Client) HTTP() *http.Client { return c.http }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Token is an access token for ARM.
func (c *Client) Token(ctx context.Context) (string, time.Time, error) {
	t, err := c.cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{audience}})
	return t.Token, t.ExpiresOn, err
}

// Request is one request. Path is an ARM path without api-version, or a whole URL.
type Request struct {
	Method  string
	Path    string
	Version string
	Query   url.Values
	Body    any
	Header  map[string]string
}

// Response is the answer to a Request.
type Response struct {
	Status int
	Body   any // decoded JSON, nil when there is none
	http   *http.Response
}

// Header is a header of the answer, "" when it has none of that name.
func (r *Response) Header(name string) string { return r.http.Header.Get(name) }

// Do sends a request. Errors: *Error for ARM's.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	target := r.Path
	if !strings.Contains(target, "://") {
		target = c.url + target
	}
	q := r.Query
	if q == nil {
		q = url.Values{}
	}
	if r.Version != "" {
		q.Set("api-version", r.Version)
	}
	if len(q) > 0 {
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		target += sep + q.Encode()
	}
	req, err := runtime.NewRequest(ctx, r.Method, target)
	if err != nil {
		return nil, err
	}
	req.Raw().Header.Set("Accept", "application/json")
	if r.Body != nil {
		if err := runtime.MarshalAsJSON(req, r.Body); err != nil {
			return nil, err
		}
	}
	for k, v := range r.Header { // last, so that they may say what kind of JSON the body is
		req.Raw().Header.Set(k, v)
	}
	start := time.Now()
	res, err := c.pipeline.Do(req)
	if err != nil {
		return nil, reachable(c.url, err)
	}
	c.log("%s %s: %s in %s (request %s)", r.Method, target, res.Status, time.Since(start).Round(time.Millisecond), res.Header.Get("x-ms-request-id"))
	return read(res)
}

// reachable says in a person's words that nobody answers.
func reachable(url string, err error) error {
	var auth *azidentity.AuthenticationFailedError
	if errors.As(err, &auth) {
		return fmt.Errorf("signing in at %s failed: %w. Is that the Berth that this BERTH_HOME belongs to?", url, err)
	}
	return fmt.Errorf("no answer from Berth at %s: %w. Is it running? Start it with: berth up", url, err)
}

func read(res *http.Response) (*Response, error) {
	data, err := runtime.Payload(res)
	if err != nil {
		return nil, err
	}
	out := &Response{Status: res.StatusCode, http: res}
	if res.StatusCode >= http.StatusBadRequest {
		return nil, parseError(res, data)
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &out.Body); err != nil {
			return nil, fmt.Errorf("the answer is not JSON: %w", err)
		}
	}
	return out, nil
}

func parseError(res *http.Response, data []byte) error {
	var envelope struct {
		Error *Error `json:"error"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil || envelope.Error == nil || envelope.Error.Code == "" {
		envelope.Error = &Error{Code: res.Status, Message: strings.TrimSpace(string(data))}
	}
	envelope.Error.Status = res.StatusCode
	envelope.Error.RequestID = res.Header.Get("x-ms-request-id")
	return envelope.Error
}

// List follows all pages of a list.
func (c *Client) List(ctx context.Context, r Request) ([]any, error) {
	r.Method = http.MethodGet
	all := []any{}
	for {
		res, err := c.Do(ctx, r)
		if err != nil {
			return nil, err
		}
		page, _ := res.Body.(map[string]any)
		values, _ := page["value"].([]any)
		all = append(all, values...)
		next, _ := page["nextLink"].(string)
		if next == "" {
			return all, nil
		}
		r = Request{Method: http.MethodGet, Path: next}
	}
}

// Progress is told what an operation waits for.
type Progress func(status, waitingFor string)

// Wait polls the operation of an answer until it ends, and returns the resource's final
// state (nil after a deletion). An answer without an operation is final itself.
func (c *Client) Wait(ctx context.Context, res *Response, progress Progress) (any, error) {
	if res.http.Header.Get("Azure-AsyncOperation") == "" && res.http.Header.Get("Location") == "" {
		return res.Body, nil
	}
	if err := rewind(res); err != nil {
		return nil, err
	}
	poller, err := runtime.NewPoller[any](res.http, c.pipeline, &runtime.NewPollerOptions[any]{FinalStateVia: runtime.FinalStateViaAzureAsyncOp})
	if err != nil {
		return nil, err
	}
	wait := 100 * time.Millisecond
	for !poller.Done() {
		answer, err := poller.Poll(ctx)
		if err != nil {
			return nil, operationError(err)
		}
		progress(operation(answer))
		if ms, err := time.ParseDuration(answer.Header.Get("retry-after-ms") + "ms"); err == nil && ms > 0 {
			wait = ms
		}
		if poller.Done() {
			break
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
	}
	if _, err := poller.Result(ctx); err != nil {
		return nil, operationError(err)
	}
	if res.http.Request.Method == http.MethodDelete {
		return nil, nil
	}
	final, err := c.Do(ctx, Request{Method: http.MethodGet, Path: res.http.Request.URL.String()})
	if err != nil {
		return nil, err
	}
	return final.Body, nil
}

// rewind gives the answer's body back, because NewPoller reads it.
func rewind(res *Response) error {
	data, err := json.Marshal(res.Body)
	res.http.Body = io.NopCloser(strings.NewReader(string(data)))
	if res.Body == nil {
		res.http.Body = http.NoBody
	}
	return err
}

func operation(res *http.Response) (status, waitingFor string) {
	data, err := runtime.Payload(res)
	if err != nil {
		return "", ""
	}
	var op struct {
		Status     string `json:"status"`
		Properties struct {
			WaitingFor string `json:"waitingFor"`
		} `json:"properties"`
	}
	_ = json.Unmarshal(data, &op) // progress is a courtesy: what cannot be read is not shown
	return op.Status, op.Properties.WaitingFor
}

// operationError turns azcore's account of a failed operation into ARM's error.
func operationError(err error) error {
	var failed *azcore.ResponseError
	if !errors.As(err, &failed) || failed.RawResponse == nil {
		return err
	}
	data, e := runtime.Payload(failed.RawResponse)
	if e != nil {
		return err
	}
	return parseError(failed.RawResponse, data)
}

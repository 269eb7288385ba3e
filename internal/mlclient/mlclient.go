// Package mlclient speaks the data-plane APIs of a workspace as azureml-core does: it discovers their
// addresses, uploads files as artifacts and downloads them, and waits for operations. What the requests mean is its
// callers' business; this package knows no model and no web service.
package mlclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/armclient"
)

// Client is a workspace's data plane.
type Client struct {
	arm      *armclient.Client
	scope    string            // the workspace's ID
	services map[string]string // from discovery: name to address
	block    int64             // bytes of a file that are sent in one piece
	pause    time.Duration     // before the first repetition of what failed
	poll     time.Duration     // between two looks at an operation
}

// Open asks a workspace where its data plane is. workspace is its path, version the api-version to ask with.
// Errors: *armclient.Error, for instance when there is no such workspace.
func Open(ctx context.Context, arm *armclient.Client, workspace, version string) (*Client, error) {
	res, err := arm.Do(ctx, armclient.Request{Method: http.MethodGet, Path: workspace, Version: version})
	if err != nil {
		return nil, err
	}
	doc, _ := res.Body.(map[string]any)
	props, _ := doc["properties"].(map[string]any)
	discovery, _ := props["discoveryUrl"].(string)
	if discovery == "" {
		return nil, errors.New("the workspace names no discovery URL. Is this a Berth of another version?")
	}
	c := &Client{arm: arm, scope: workspace, services: map[string]string{}, block: blockSize, pause: 250 * time.Millisecond, poll: 250 * time.Millisecond}
	return c, c.discover(ctx, discovery)
}

// discover reads the document that names the services. It needs no token, so it gets none.
func (c *Client) discover(ctx context.Context, at string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	res, err := c.arm.HTTP().Do(req)
	if err != nil {
		return fmt.Errorf("asking where the workspace's data plane is: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s where the workspace's data plane is: the answer is %s", at, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&c.services); err != nil {
		return fmt.Errorf("the discovery document at %s cannot be read: %w", at, err)
	}
	for _, name := range []string{models, artifacts, environments} {
		if c.services[name] == "" {
			return fmt.Errorf("the discovery document at %s does not say where %s is", at, name)
		}
	}
	return nil
}

// The services that discovery names, as azureml-core maps them.
const (
	models       = "modelmanagement"
	artifacts    = "history"
	environments = "experimentation"
)

// at is the URL of something that a service has for the workspace.
func (c *Client) at(service, prefix, rest string) string {
	return strings.TrimSuffix(c.services[service], "/") + prefix + c.scope + rest
}

// Models is the URL of something of model management: models, assets, web services, operations.
func (c *Client) Models(rest string) string {
	return c.at(models, "/modelmanagement/v1.0", rest)
}

// Artifacts is the URL of something of the artifacts.
func (c *Client) Artifacts(rest string) string {
	return c.at(artifacts, "/artifact/v2.0", rest)
}

// Environments is the URL of something of the environments.
func (c *Client) Environments(rest string) string {
	return c.at(environments, "/environment/v1.0", rest)
}

// Do sends a request to a URL that Models, Artifacts or Environments gave. body may be nil.
func (c *Client) Do(ctx context.Context, method, at string, query url.Values, body any) (*armclient.Response, error) {
	r := armclient.Request{Method: method, Path: at, Query: query, Body: body}
	if method == http.MethodPatch {
		r.Header = map[string]string{"Content-Type": "application/json-patch+json"}
	}
	return c.arm.Do(ctx, r)
}

// Get reads an object.
func (c *Client) Get(ctx context.Context, at string, query url.Values) (map[string]any, error) {
	res, err := c.Do(ctx, http.MethodGet, at, query, nil)
	if err != nil {
		return nil, err
	}
	m, _ := res.Body.(map[string]any)
	return m, nil
}

// operation is an operation as model management shows it.
type operation struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Error *struct {
		Code       string             `json:"code"`
		Message    string             `json:"message"`
		StatusCode int                `json:"statusCode"`
		Details    []*armclient.Error `json:"details"`
	} `json:"error"`
	Details struct {
		Step string `json:"subOperationType"`
	} `json:"operationDetails"`
	Log string `json:"streamingOperationLog"`
}

// Failure is an operation that did not succeed. It unwraps to the *armclient.Error that says why.
type Failure struct {
	Step  string // where it failed: BuildEnvironment or DeployService
	Cause *armclient.Error
}

func (f *Failure) Error() string { return f.Cause.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// Wait waits for the operation that an answer began, and calls say with what the operation reports. An
// answer without an operation is final itself. Errors: *Failure.
func (c *Client) Wait(ctx context.Context, res *armclient.Response, say func(text string)) error {
	location := res.Header("Operation-Location")
	if location == "" {
		return nil
	}
	// The last segment is all that clients of the original go by.
	at := c.Models("/operations/" + url.PathEscape(path.Base(location)))
	for seen := 0; ; {
		op, err := c.operation(ctx, at, seen)
		if err != nil {
			return err
		}
		seen += len([]rune(op.Log)) // the offset counts characters
		lines := logLines(op.Log)
		for _, line := range lines {
			say(line)
		}
		switch op.State {
		case "Succeeded":
			return nil
		case "NotStarted", "Running":
		default:
			return op.failure()
		}
		if len(lines) == 0 {
			say("") // time has passed
		}
		if err := sleep(ctx, c.poll); err != nil {
			return err
		}
	}
}

func (c *Client) operation(ctx context.Context, at string, offset int) (*operation, error) {
	res, err := c.Do(ctx, http.MethodGet, at, url.Values{"offset": {strconv.Itoa(offset)}}, nil)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(res.Body)
	if err != nil {
		return nil, err
	}
	op := &operation{}
	if err := json.Unmarshal(data, op); err != nil {
		return nil, fmt.Errorf("the operation at %s cannot be read: %w", at, err)
	}
	return op, nil
}

// logLines are the texts of an operation's log: entries of time|text, with # after each.
func logLines(log string) []string {
	var out []string
	for entry := range strings.SplitSeq(log, "#") {
		if _, text, ok := strings.Cut(entry, "|"); ok {
			out = append(out, text)
		}
	}
	return out
}

func (op *operation) failure() error {
	out := &armclient.Error{Code: "Operation" + op.State, Message: fmt.Sprintf("The operation %s ended in the state %s and gave no reason.", op.ID, op.State)}
	if e := op.Error; e != nil {
		out.Status, out.Details = e.StatusCode, e.Details
		if e.Code != "" {
			out.Code = e.Code
		}
		if e.Message != "" {
			out.Message = e.Message
		}
	}
	return &Failure{Step: op.Details.Step, Cause: out}
}

// sleep waits, or until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package app_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/tracing/tracingtest"
)

// traced starts a Berth that tells a collector what it does, at once.
func traced(t *testing.T) (*server, *tracingtest.Collector) {
	t.Helper()
	c := tracingtest.New(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
	return start(t, nil), c
}

// await waits until the collector was told of spans that fit.
func await(t *testing.T, c *tracingtest.Collector, what string, fit func(tracingtest.Span) bool) []tracingtest.Span {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) { // polls a real server
		if found := slices.DeleteFunc(c.Spans(), func(s tracingtest.Span) bool { return !fit(s) }); len(found) > 0 {
			return found
		}
	}
	t.Fatalf("the collector was not told of %s; it has:\n%s", what, tracingtest.Tree(c.Spans()))
	return nil
}

// A deployment's trace begins at its caller and has the POST and the passes for it.
func TestTrace_Deployment(t *testing.T) {
	s, c := traced(t)
	s.workspace()
	s.deploy("plain") // has what a deployment needs
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	s.header = map[string][]string{"Traceparent": {"00-" + trace + "-00f067aa0ba902b7-01"}}
	r := s.want(202, "POST", s.expand("{mms}/services"), deployment("told"))
	s.header = nil
	s.settle(r)
	ours := func(s tracingtest.Span) bool { return s.Trace == trace }
	post := await(t, c, "the POST", func(s tracingtest.Span) bool { return ours(s) && s.Kind == "server" })[0]
	if post.Name != "POST /modelmanagement/v1.0/{workspace}/services" || post.Parent != "00f067aa0ba902b7" || post.Service != "berth" ||
		post.Attributes["http.response.status_code"] != "202" || post.Attributes["berth.request_id"] != r.header.Get("x-ms-request-id") || post.Attributes["server.address"] == "" {
		t.Errorf("the POST's span is %+v", post)
	}
	last := await(t, c, "the pass that ended the deployment", func(s tracingtest.Span) bool {
		return ours(s) && strings.HasPrefix(s.Name, "reconcile ") && (s.Attributes["berth.outcome"] == "Failed" || s.Attributes["berth.outcome"] == "Succeeded")
	})[0]
	if last.Parent != post.ID || last.Name != "reconcile Microsoft.MachineLearningServices/workspaces/services" || last.Attributes["berth.operation.kind"] != "create" || !strings.HasSuffix(last.Attributes["berth.resource.id"], "/services/told") {
		t.Errorf("the last pass is %+v", last)
	}
	await(t, c, "a pass of a resource at rest", func(s tracingtest.Span) bool {
		return strings.HasPrefix(s.Name, "reconcile ") && s.Trace != trace
	})
}

func TestTrace_RoutesNameSpans(t *testing.T) {
	s, c := traced(t)
	ws := s.workspace()
	s.header = map[string][]string{"X-Ms-Correlation-Request-Id": {"correlation-7"}}
	for name, path := range map[string]string{
		"GET /subscriptions": "/subscriptions",
		"GET /subscriptions/{subscription}/resourceGroups/{group}":                                                                               s.sub() + "/resourceGroups/rg",
		"GET /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{name}":                 strings.ToUpper(ws[:20]) + ws[20:],
		"GET /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{name}/computes":        ws + "/computes",
		"GET /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{name}/computes/{name}": ws + "/computes/none",
		"GET /subscriptions/{subscription}/providers/{namespace}":                                                                                s.sub() + "/providers/Microsoft.Compute",
		"GET": s.sub() + "/nothing/x",
	} {
		r := s.do("GET", path+"?api-version=2022-10-01&sig=QUERYSECRET", "")
		span := await(t, c, path, func(sp tracingtest.Span) bool {
			return sp.Attributes["berth.request_id"] == r.header.Get("x-ms-request-id")
		})[0]
		if span.Name != name || span.Attributes["berth.correlation_id"] != "correlation-7" {
			t.Errorf("%s is told as %q, want %q; %v", path, span.Name, name, span.Attributes)
		}
		if r.status >= 400 && span.Attributes["error.type"] != r.at("error.code") {
			t.Errorf("%s is told to fail for %q, and answered %s", path, span.Attributes["error.type"], r.raw)
		}
	}
	await(t, c, "the sign-in", func(s tracingtest.Span) bool { return s.Name == "POST /{tenant}/oauth2/v2.0/token" })
	if strings.Contains(c.Text(), "QUERYSECRET") {
		t.Error("a query string was told")
	}
}

// A collector often belongs to somebody else: it is told nothing with which one could sign in, read a file or score.
func TestTrace_SecretsStayInside(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=COLLECTORKEY")
	s, c := traced(t)
	s.workspace()
	s.deploy("plain")
	const chosen, password = "CHOSENKEYCHOSENKEYCHOSENKEYCHOSE", "BASEIMAGEPASSWORD"
	s.settle(s.want(202, "POST", s.expand("{mms}/services"), strings.NewReplacer(`"computeType"`, `"keys":{"primaryKey":"`+chosen+`"},"computeType"`, `"python"`,
		`"docker":{"baseImage":"cr.example/x:1","baseImageRegistry":{"address":"cr.example","username":"u","password":"`+password+`"}},"python"`).Replace(deployment("keys"))))
	keys := s.want(200, "POST", s.expand("{mms}/services/keys/listkeys"), "")
	signed := s.want(200, "GET", s.expand("{artifacts}/contentinfo/LocalUpload/1/model.pkl"), "").at("contentUri").(string)
	s.blob("GET", signed, "")
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	s.do("GET", s.expand("{mms}/services?sig=")+url.QueryEscape(u.Query().Get("sig")), "")
	last := s.do("GET", s.sub(), "")
	await(t, c, "the last request", func(sp tracingtest.Span) bool {
		return sp.Attributes["berth.request_id"] == last.header.Get("x-ms-request-id")
	})
	await(t, c, "reading a blob", func(sp tracingtest.Span) bool { return sp.Name == "GET /{container}/{blob}" })
	credentials, err := s.home.ReadCredentials()
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"a chosen key": chosen, "a key": keys.at("secondaryKey").(string), "a base image's password": password, "a signature": u.Query().Get("sig"), "an encoded signature": url.QueryEscape(u.Query().Get("sig")),
		"a token": s.token, "a service principal's secret": credentials.ClientSecret, "the collector's own key": "COLLECTORKEY",
	} {
		if len(secret) < 12 {
			t.Fatalf("%s is %q", what, secret)
		}
		if strings.Contains(c.Text(), secret) {
			t.Errorf("%s was told", what)
		}
	}
}

func TestTrace_BadSettingsAreRefused(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
	err := app.Run(t.Context(), app.Config{Home: app.Home(t.TempDir()), Provider: "fake"}, func(app.Info) { t.Error("it started") })
	if err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL of the form http://host:4318") {
		t.Errorf("Run: %v", err)
	}
}

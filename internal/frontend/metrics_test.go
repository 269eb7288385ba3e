package frontend

import (
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// scrape is what Prometheus reads.
func scrape(t *testing.T, f *FrontEnd) string {
	t.Helper()
	w := httptest.NewRecorder()
	f.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("scraping answered %d with %s", w.Code, w.Header().Get("Content-Type"))
	}
	return w.Body.String()
}

// value is a series' value, 0 when it is absent.
func value(t *testing.T, f *FrontEnd, series string) float64 {
	t.Helper()
	for line := range strings.Lines(scrape(t, f)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris"))
		n.listen(t, "pod:5001", text("ok"))
		f.SetPods("iris", up("pod:5001"))
		c := n.client(t)
		for range 3 {
			score(t, c, "iris", "x").want(t, 200, "model", "")
		}
		score(t, c, "rose", "x").want(t, 404, "router", "UnknownService")
		f.scaling(nil, nil).look(t.Context(), f.now())
		all := scrape(t, f)
		line := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{([a-z]+="[^"]*",?)*\})? [0-9.e+-]+)$`)
		for l := range strings.Lines(all) {
			if !line.MatchString(strings.TrimSpace(l)) {
				t.Errorf("no line of Prometheus's format: %q", l)
			}
		}
		for series, want := range map[string]float64{
			`berth_requests_total{code="200",service="iris",version=""}`:        3,
			`berth_requests_total{code="404",service="",version=""}`:            1, // under no name: callers choose names
			`berth_request_seconds_count{service="iris",version=""}`:            3,
			`berth_replicas{service="iris",version=""}`:                         1,
			`berth_replicas_busy{service="iris",version=""}`:                    0,
			`berth_requests_queued{service="iris",version=""}`:                  0,
			`berth_request_seconds_bucket{service="iris",version="",le="+Inf"}`: 3,
		} {
			if !strings.Contains(all, series+" ") {
				t.Errorf("there is no %s", series)
			}
			if got := value(t, f, series); got != want {
				t.Errorf("%s is %v, want %v", series, got, want)
			}
		}
		f.RemoveRoute("iris")
		if after := scrape(t, f); strings.Contains(after, "iris") {
			t.Errorf("a service that is gone is still reported:\n%s", after)
		}
	})
}

package frontend

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what Prometheus reads.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(loads prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_requests_total", Help: "Requests by service, version and status."}, []string{"service", "version", "code"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_request_seconds", Help: "Time to the model's answer, queueing included.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 18)}, []string{"service", "version"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, loads)
	return m
}

func (m *metrics) count(service, version string, code int) {
	m.requests.WithLabelValues(service, version, strconv.Itoa(code)).Inc()
}

func (m *metrics) forget(service string) {
	of := prometheus.Labels{"service": service}
	m.requests.DeletePartialMatch(of)
	m.seconds.DeletePartialMatch(of)
}

// series are the metrics of one version, found once instead of for each request.
type series struct {
	metrics          *metrics
	service, version string
	found            sync.Once
	ok               prometheus.Counter // status 200
	seconds          prometheus.Observer
}

// done counts an answer of a model.
func (s *series) done(code int, took time.Duration) {
	s.found.Do(func() {
		s.ok = s.metrics.requests.WithLabelValues(s.service, s.version, "200")
		s.seconds = s.metrics.seconds.WithLabelValues(s.service, s.version)
	})
	if code == http.StatusOK {
		s.ok.Inc()
	} else {
		s.metrics.count(s.service, s.version, code)
	}
	s.seconds.Observe(took.Seconds())
}

// loads are the loads of all versions when Prometheus asks.
type loads struct{ front *FrontEnd }

var (
	labels     = []string{"service", "version"}
	busyDesc   = prometheus.NewDesc("berth_replicas_busy", "Replicas that work on a request.", labels, nil)
	queuedDesc = prometheus.NewDesc("berth_requests_queued", "Requests that wait for a replica.", labels, nil)
	haveDesc   = prometheus.NewDesc("berth_replicas", "Replicas that there are.", labels, nil)
)

// Describe implements prometheus.Collector.
func (loads) Describe(to chan<- *prometheus.Desc) { to <- busyDesc; to <- queuedDesc; to <- haveDesc }

// Collect implements prometheus.Collector.
func (l loads) Collect(to chan<- prometheus.Metric) {
	now := l.front.now()
	for name, e := range l.front.all() {
		for _, v := range e.versions {
			of := v.pool.load(now)
			for desc, n := range map[*prometheus.Desc]int{busyDesc: of.busy, queuedDesc: of.queued, haveDesc: of.replicas} {
				to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), name, v.Name)
			}
		}
	}
}

// Metrics answers Prometheus.
func (f *FrontEnd) Metrics() http.Handler {
	return promhttp.HandlerFor(f.metrics.registry, promhttp.HandlerOpts{})
}

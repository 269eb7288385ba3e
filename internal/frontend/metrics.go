package frontend

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what Prometheus reads.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	busy     *prometheus.GaugeVec
	queued   *prometheus.GaugeVec
	replicas *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_requests_total", Help: "Requests by service, version and status."}, []string{"service", "version", "code"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_request_seconds", Help: "Time to the model's answer, queueing included.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 18)}, []string{"service", "version"}),
		busy:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_replicas_busy", Help: "Replicas that work on a request."}, []string{"service", "version"}),
		queued:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_requests_queued", Help: "Requests that wait for a replica."}, []string{"service", "version"}),
		replicas: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "berth_replicas", Help: "Replicas that there are."}, []string{"service", "version"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.busy, m.queued, m.replicas)
	return m
}

func (m *metrics) count(service, version string, code int) {
	m.requests.WithLabelValues(service, version, strconv.Itoa(code)).Inc()
}

func (m *metrics) done(service, version string, code int, took time.Duration) {
	m.count(service, version, code)
	m.seconds.WithLabelValues(service, version).Observe(took.Seconds())
}

func (m *metrics) load(service, version string, l load) {
	m.busy.WithLabelValues(service, version).Set(float64(l.busy))
	m.queued.WithLabelValues(service, version).Set(float64(l.queued))
	m.replicas.WithLabelValues(service, version).Set(float64(l.replicas))
}

func (m *metrics) forget(service string) {
	of := prometheus.Labels{"service": service}
	m.requests.DeletePartialMatch(of)
	m.seconds.DeletePartialMatch(of)
	m.busy.DeletePartialMatch(of)
	m.queued.DeletePartialMatch(of)
	m.replicas.DeletePartialMatch(of)
}

// Metrics answers Prometheus.
func (f *FrontEnd) Metrics() http.Handler {
	return promhttp.HandlerFor(f.metrics.registry, promhttp.HandlerOpts{})
}

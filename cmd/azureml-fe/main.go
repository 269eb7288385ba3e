// Command azureml-fe is the front end of a workspace's web services. It runs in the
// workspace's namespace and is configured by POD_IP and POD_NAMESPACE, and by OpenTelemetry's
// OTEL_* variables when it is to export traces.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities, and collectors may be on the internet
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/frontend/kube"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/tracing"
)

// drain bounds how long a front end that is to stop finishes requests.
const drain = 60 * time.Second

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("the front end ended", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	namespace, ip := os.Getenv(route.NamespaceVariable), os.Getenv(route.AddressVariable)
	if namespace == "" || ip == "" {
		return errors.New("POD_NAMESPACE and POD_IP are not set; attaching a cluster starts the front end with them")
	}
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("finding the Kubernetes API: %w", err)
	}
	cfg.UserAgent, cfg.QPS = "azureml-fe", -1
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	traces, err := tracing.Start(context.Background(), "azureml-fe", logger, semconv.K8SNamespaceName(namespace), semconv.ServiceInstanceID(ip))
	if err != nil {
		return err
	}
	defer traces.Stop()
	front := frontend.New(logger)
	front.Trace(traces)
	watcher := &kube.Watcher{API: api, Namespace: namespace, Self: ip, Front: front, Log: logger}
	var stopping atomic.Bool
	status := http.NewServeMux()
	status.Handle("/metrics", front.Metrics())
	status.HandleFunc(route.LivePath, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	status.HandleFunc(route.ReadyPath, func(w http.ResponseWriter, _ *http.Request) {
		if !watcher.Ready() || stopping.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	servers := []*http.Server{
		server(route.HTTPPort, front), server(route.HTTPSPort, front), server(route.PeersPort, front.Inner()), server(route.StatusPort, status),
	}
	servers[1].TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: watcher.Certificate}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	watching, forget := context.WithCancel(context.Background())
	defer forget()
	group, ctx := errgroup.WithContext(stop)
	for i, s := range servers {
		group.Go(func() error {
			if i != len(servers)-1 { // until it knows the services, callers and other front ends are better off elsewhere
				select {
				case <-watcher.Learned():
				case <-ctx.Done():
					return nil
				}
			}
			listen := s.ListenAndServe
			if s.TLSConfig != nil {
				listen = func() error { return s.ListenAndServeTLS("", "") }
			}
			if err := listen(); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error { return watcher.Run(watching) })
	group.Go(func() error { collectLess(ctx); return nil })
	group.Go(func() error {
		<-ctx.Done()
		stopping.Store(true)
		end, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		var errs []error
		for _, s := range servers {
			errs = append(errs, s.Shutdown(end))
		}
		forget()
		return errors.Join(errs...)
	})
	return group.Wait()
}

// server has limits for what comes before a body; bodies and answers take as long as models do.
func server(port int, h http.Handler) *http.Server {
	return &http.Server{
		Addr: ":" + strconv.Itoa(port), Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // clients that break a handshake are not news
	}
}

// heapFloor is the size below which the heap may grow before it is collected, in bytes. Go lets it double, which for a small
// one is soon, and requests wait for each collection.
const heapFloor = 40 << 20

// collectLess keeps to heapFloor until ctx ends.
func collectLess(ctx context.Context) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for now := gcPercent(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(live)
		if want := gcPercent(live[0].Value.Uint64()); want != now {
			debug.SetGCPercent(want)
			now = want
		}
	}
}

// gcPercent is how much a heap with so much that is in use may grow, in steps, because each change stops everything for a moment.
func gcPercent(live uint64) int {
	const least, most, step = 100, 700, 50
	if live == 0 {
		return least
	}
	percent := int(min(100*heapFloor/live, most+100)) - 100
	return max(least, percent/step*step)
}

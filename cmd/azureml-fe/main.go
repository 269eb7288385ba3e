// Command azureml-fe is the front end of a workspace's web services. It runs in the
// workspace's namespace and is configured by POD_IP and POD_NAMESPACE alone.
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
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/frontend/kube"
)

const (
	plainPort, securePort, statusPort = 8080, 8443, 8081
	// drain bounds how long a front end that is to stop finishes requests.
	drain = 60 * time.Second
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("the front end ended", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	namespace, ip := os.Getenv("POD_NAMESPACE"), os.Getenv("POD_IP")
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
	front := frontend.New(logger)
	watcher := &kube.Watcher{API: api, Namespace: namespace, Self: ip, Front: front, Log: logger}
	var stopping atomic.Bool
	status := http.NewServeMux()
	status.Handle("/metrics", front.Metrics())
	status.HandleFunc("/healthz/live", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	status.HandleFunc("/healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !watcher.Ready() || stopping.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	servers := []*http.Server{
		server(plainPort, front), server(securePort, front), server(kube.PeersPort, front.Inner()), server(statusPort, status),
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

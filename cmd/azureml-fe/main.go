// Command azureml-fe is the front end of a workspace's web services. It runs in the
// workspace's namespace and is configured by POD_IP and POD_NAMESPACE, and by OpenTelemetry's
// OTEL_* variables when it is to export traces.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities, and collectors may be on the internet
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/internal/frontend"
	"github.com/berthdev/berth/internal/frontend/kube"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/tracing"
)

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
	p := program{front: front, watcher: watcher, log: logger, leaving: route.LeavingPeriod, listen: func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
	}}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	return p.run(stop)
}

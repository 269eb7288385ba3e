// Package startup makes components that are all started at once ready sooner: they wait
// for the API server together instead of failing and backing off, and they spend the
// machine's time on starting and not on collecting garbage.
package startup

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// look is the time between two questions to the API server.
	look = 20 * time.Millisecond
	// requestTime bounds each of them.
	requestTime = time.Second

	// A starting component allocates what it keeps, so collecting is wasted time. After
	// the start its heap is small beside its code, and memory is what a node costs.
	startPercent  = 400
	steadyPercent = 50
	startTime     = 15 * time.Second
)

// AwaitAPIServer returns once the API server says that it is ready to the user of a
// kubeconfig file. That it knows the user's rights, too, is part of the answer.
func AwaitAPIServer(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	config.Timeout = requestTime
	config.QPS = -1
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// TuneCollector collects little during the start and often afterwards.
func TuneCollector() {
	debug.SetGCPercent(startPercent)
	time.AfterFunc(startTime, func() {
		debug.SetGCPercent(steadyPercent)
		debug.FreeOSMemory()
	})
}

// Package loadbalancer gives Services of type LoadBalancer an address of the host's
// loopback network and forwards its ports to the nodes: what a cloud's load balancer
// does, for whoever is on this machine. It must not know how nodes are made.
package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// NewCommand returns the command "cloud-controller".
func NewCommand() *cobra.Command {
	var kubeconfig, addresses string
	command := &cobra.Command{
		Use:           "cloud-controller",
		Short:         "Give LoadBalancer services loopback addresses on this machine",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return run(genericapiserver.SetupSignalContext(), kubeconfig, addresses)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file of the cluster")
	command.Flags().StringVar(&addresses, "addresses", "", "range that services get addresses of, for instance 127.10.20.0/24")
	return command
}

func run(ctx context.Context, kubeconfig, addresses string) error {
	prefix, err := netip.ParsePrefix(addresses)
	if err != nil || !prefix.Addr().IsLoopback() {
		return fmt.Errorf("--addresses %q is not a range of loopback addresses such as 127.10.20.0/24", addresses)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	controller := newController(client, factory, prefix)
	factory.Start(ctx.Done())
	controller.run(ctx)
	factory.Shutdown()
	return nil
}

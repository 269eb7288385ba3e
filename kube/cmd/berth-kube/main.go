// Command berth-kube is every Kubernetes component that Berth's local clusters run, in
// one binary so that their code is in memory once:
//
//	berth-kube apiserver|controller-manager|scheduler|proxy [flags of the component]
//	berth-kube kubelet [flags of the kubelet and --machine-…]
//	berth-kube cloud-controller --kubeconfig FILE --addresses 127.10.20.0/24
//
// With BERTH_AWAIT in the environment, a component first waits until the API server is
// ready for the user of the kubeconfig file that it names.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/berthdev/berth/kube/internal/loadbalancer"
	"github.com/berthdev/berth/kube/internal/machine"
	"github.com/berthdev/berth/kube/internal/startup"
)

// components makes commands on demand: each of Kubernetes' own sets up the process's
// one signal handler, so that making two of them panics.
var components = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllermanager.NewControllerManagerCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"proxy":              proxy.NewProxyCommand,
	"kubelet":            machine.NewKubeletCommand,
	"cloud-controller":   loadbalancer.NewCommand,
}

func main() {
	if len(os.Args) > 1 {
		if newCommand, exists := components[os.Args[1]]; exists {
			startup.TuneCollector()
			if kubeconfig := os.Getenv("BERTH_AWAIT"); kubeconfig != "" {
				if err := startup.AwaitAPIServer(context.Background(), kubeconfig); err != nil {
					fmt.Fprintln(os.Stderr, "berth-kube:", err)
					os.Exit(1)
				}
			}
			os.Args = append([]string{"berth-kube " + os.Args[1]}, os.Args[2:]...)
			os.Exit(cli.Run(newCommand()))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: berth-kube apiserver|controller-manager|scheduler|proxy|kubelet|cloud-controller [flags]")
	os.Exit(2)
}

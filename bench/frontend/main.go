// Command frontend measures the front end of web services: what it adds to a request and what a request
// costs it, against no front end, nginx and Traefik in the same run; how soon changes of 3,000
// routes take effect; how soon it scales. What runs is the real azureml-fe against a real API
// server and etcd, in namespaces of their own, so that ports are free and nothing stays behind. It needs
// root, nginx and an idle machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"
)

type options struct {
	libexec, traefik          string
	runs, services            int
	length, podStart          time.Duration
	compare, routes, scale    bool
	inside                    string // processors of what is measured; empty outside of the namespaces
	loadOfRoutes, rampOfScale float64
}

func main() {
	var o options
	flag.StringVar(&o.libexec, "libexec", "../../bin/libexec", "folder of azureml-fe, berth-kube and etcd")
	flag.StringVar(&o.traefik, "traefik", "../../.build/traefik", "the Traefik program, built when it is not there")
	flag.IntVar(&o.runs, "runs", 5, "runs of each comparison")
	flag.DurationVar(&o.length, "length", 5*time.Second, "length of one load")
	flag.IntVar(&o.services, "services", 3000, "services to route")
	flag.Float64Var(&o.loadOfRoutes, "load", 500, "requests a second while routes change")
	flag.Float64Var(&o.rampOfScale, "ramp", 7, "requests a second at 1x of the ramp, of 100 ms each")
	flag.DurationVar(&o.podStart, "pod-start", time.Second, "from a decision to scale until the new pods are ready")
	flag.BoolVar(&o.compare, "compare", true, "compare with nginx and Traefik")
	flag.BoolVar(&o.routes, "routes", true, "change routes")
	flag.BoolVar(&o.scale, "scale", true, "scale")
	flag.StringVar(&o.inside, "inside", "", "for its own use: it is in its namespaces, and these are the processors of what is measured")
	pod := flag.Bool("pod", false, "for its own use: be the pods")
	flag.Parse()
	// The load and the pods do not collect garbage in the midst of a measurement: a load does that before it begins. With 1 GiB of it, it took
	// 200 ms of the processor that pods have, too. The limit is for a load that never ends.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(4 << 30)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 45*time.Minute)
	defer cancel()
	var err error
	switch {
	case *pod:
		err = servePods()
	case o.inside != "":
		err = o.run(ctx)
	default:
		err = o.enter(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// enter prepares what needs the outside and runs the rest in namespaces.
func (o *options) enter(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces need root: run it with sudo")
	}
	for _, p := range []*string{&o.libexec, &o.traefik} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if _, err := exec.LookPath("nginx"); err != nil {
		return errors.New("nginx is not installed: apt-get install nginx-light")
	}
	for _, name := range []string{"azureml-fe", "berth-kube", "etcd"} {
		if _, err := os.Stat(filepath.Join(o.libexec, name)); err != nil {
			return fmt.Errorf("%w: run make build first", err)
		}
	}
	if err := buildTraefik(ctx, o.traefik); err != nil {
		return err
	}
	// The flags once more: the last of each counts.
	return inNamespaces(ctx, append(os.Args[1:], "-libexec="+o.libexec, "-traefik="+o.traefik))
}

func (o *options) run(ctx context.Context) (err error) {
	if err := setUp(); err != nil {
		return err
	}
	procs := processes{measured: o.inside}
	defer func() { procs.end() }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Pods go before the load, with which they share processors, as they would on their own: who was called answers, before more is asked.
	if _, err := procs.start("pods", nil, "chrt", "--rr", "2", self, "-pod"); err != nil {
		return err
	}
	c, err := startCluster(ctx, &procs, o.libexec)
	if err != nil {
		return err
	}
	if o.compare {
		if err := o.compareAll(ctx, c, &procs); err != nil {
			return fmt.Errorf("comparing: %w", err)
		}
	}
	fe, err := c.startFrontEnd(ctx, &procs, o.libexec)
	if err != nil {
		return err
	}
	if o.routes {
		if err := o.changeRoutes(ctx, c, fe); err != nil {
			return fmt.Errorf("changing routes: %w", err)
		}
	}
	if o.scale {
		if err := o.scaleUp(ctx, c); err != nil {
			return fmt.Errorf("scaling: %w", err)
		}
	}
	return nil
}

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/berthdev/berth/internal/route"
)

const (
	delayHeader = "Bench-Delay" // how long a pod works on a request
	podHeader   = "Bench-Pod"   // which address answered
)

// servePods is every pod there is: it listens at all addresses of the network, and answers with as many bytes as it
// got.
func servePods() error {
	answer := make([]byte, 1<<20)
	return http.ListenAndServe(":"+strconv.Itoa(route.ContainerPort), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		if d := r.Header.Get(delayHeader); d != "" {
			delay, err := time.ParseDuration(d)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			time.Sleep(delay)
		}
		if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			w.Header().Set(podHeader, at.IP.String())
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = w.Write(answer[:n])
	}))
}

// podIP is the address of a service's pod.
func podIP(service, replica int) string {
	n := 256 + service*16 + replica
	return fmt.Sprintf("10.77.%d.%d", n/256, n%256)
}

// podIPs are the addresses of a service's first pods.
func podIPs(service, replicas int) []string {
	var all []string
	for i := range replicas {
		all = append(all, podIP(service, i))
	}
	return all
}

package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/berthdev/berth/internal/route"
)

const (
	delayHeader = "Bench-Delay" // how long a pod works on a request
	podHeader   = "Bench-Pod"   // which address answered
	largest     = 1 << 20       // bytes that a body has
)

// servePods is every pod there is: it listens at all addresses of the network, and answers with as many bytes as it
// got. It is fasthttp's server for the same reason as caller is its client.
func servePods() error {
	delays, err := newDelays()
	if err != nil {
		return err
	}
	answer := make([]byte, largest)
	pods := &fasthttp.Server{MaxRequestBodySize: len(answer), Concurrency: 100_000, NoDefaultServerHeader: true, NoDefaultDate: true, Handler: func(c *fasthttp.RequestCtx) {
		if d := c.Request.Header.Peek(delayHeader); len(d) > 0 {
			length, err := time.ParseDuration(string(d))
			if err != nil {
				c.Error(err.Error(), http.StatusBadRequest)
				return
			}
			delays.sleep(length)
		}
		if at, ok := c.LocalAddr().(*net.TCPAddr); ok {
			c.Response.Header.Set(podHeader, at.IP.String())
		}
		c.SetContentType("application/octet-stream")
		c.Response.SetBodyRaw(answer[:len(c.Request.Body())])
	}}
	l, err := net.Listen("tcp4", ":"+strconv.Itoa(route.ContainerPort))
	if err != nil {
		return err
	}
	return pods.Serve(listener{l})
}

// listener accepts connections that do not copy bodies.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(c)
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

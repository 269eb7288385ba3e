package frontend

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/frontend/http1"
	"github.com/berthdev/berth/internal/frontend/listentest"
	"github.com/berthdev/berth/internal/route"
)

// rawPod answers every request with as many bytes as it got. It is no more than a loop over a socket, so that what a
// benchmark measures is the front end.
func rawPod(b *testing.B, size int) string {
	b.Helper()
	l := listentest.Local(b)
	answer := append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", size), make([]byte, size)...)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				for in := bufio.NewReaderSize(c, 64<<10); ; {
					if err := skipHead(in); err != nil {
						return
					}
					if _, err := in.Discard(size); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func skipHead(in *bufio.Reader) error {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil || len(line) <= 2 {
			return err
		}
	}
}

// BenchmarkScore is a request by way of a server over TCP: with key authentication, the queue, the choice of a pod and metrics.
func BenchmarkScore(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			f := New(quiet)
			f.SetRoute(&route.Route{
				Service: "iris", Auth: route.Auth{Mode: route.AuthKey, Keys: []string{route.KeySum(primary), route.KeySum(secondary)}},
				Versions: []route.Version{{
					Workload: "iris", Percent: 100, Default: true, MaxConcurrent: 1000, QueueWait: route.DefaultQueueWait, Timeout: route.DefaultTimeout,
					MaxBody: route.MaxBody, Scale: route.Scale{Min: 1},
				}},
			})
			f.SetPods("iris", up(rawPod(b, size)))
			f.SetPeers("127.0.0.1:9001", []string{"127.0.0.1:9001"}, "peer-token")
			l := listentest.Local(b)
			server := &http1.Server{Handler: f, HeaderTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeader: 64 << 10, Log: quiet}
			go func() { _ = server.Serve(l) }()
			b.Cleanup(func() { _ = server.Close() })
			head := fmt.Appendf(nil, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nAccept-Encoding: gzip\r\n\r\n", l.Addr(), primary, size)
			request := append(head, make([]byte, size)...)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					b.Error(err)
					return
				}
				defer func() { _ = c.Close() }()
				in := bufio.NewReaderSize(c, 64<<10)
				for pb.Next() {
					sent := make(chan error, 1)
					if size > small {
						go func() { _, err := c.Write(request); sent <- err }()
					} else {
						_, err := c.Write(request)
						sent <- err
					}
					status, err := in.ReadSlice('\n')
					if err != nil || !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
						b.Errorf("answered %q: %v", status, err)
						return
					}
					if err := skipHead(in); err != nil {
						b.Error(err)
						return
					}
					if _, err := io.CopyN(io.Discard, in, int64(size)); err != nil {
						b.Error(err)
						return
					}
					if err := <-sent; err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

package frontend

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/frontend/wire"
	"github.com/berthdev/berth/internal/route"
)

// idle fails unless nothing is held any more.
func idle(t *testing.T, f *FrontEnd) {
	t.Helper()
	if got := f.room.used.Load(); got != 0 {
		t.Errorf("%d bytes are still held", got)
	}
	for name, e := range f.all() {
		if got := e.share.Load(); got != 0 {
			t.Errorf("%s still holds %d bytes", name, got)
		}
	}
}

// Services that are overloaded share what memory there is for requests that wait, at the front end that owns them and at those that
// pass requests on. What is beyond it is refused at once, and other services are answered as ever.
func TestOverloadedServicesShareMemory(t *testing.T) {
	t.Parallel()
	const overloaded, each, size = 4, 200, 24 << 20
	for name, tt := range map[string]struct {
		body   int
		hidden bool // its length
	}{"small bodies": {100, false}, "bodies that are kept": {small, false}, "bodies that wait": {2 * small, false}, "bodies of unknown length": {100, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A pipe holds nothing, so that an answer that comes before the body was read, as plain servers do it, would not get through.
			bubbleOf(t, full, withFleet(text("ok"), func(t *testing.T, n *network, fl *fleet) {
				hang := make(chan struct{})
				fl.each(func(f *FrontEnd) { f.room.size = size })
				n.listen(t, "rose:5001", text("rose"))
				n.listen(t, "hangs:5001", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					<-hang
				}))
				fl.each(func(f *FrontEnd) {
					f.SetRoute(service(t, "rose"))
					f.SetPods("rose", up("rose:5001"))
					for i := range overloaded {
						name := fmt.Sprintf("iris-%d", i)
						f.SetRoute(service(t, name, func(r *route.Route) { r.Versions[0].QueueWait = 30 * time.Second }))
						f.SetPods(name, up("hangs:5001"))
					}
				})
				c := n.client(t)
				content := strings.Repeat("x", tt.body)
				post := func(i int, name string) answer {
					var body io.Reader = strings.NewReader(content)
					if tt.hidden {
						body = chunked{body}
					}
					return send(c, requestTo(t, fl.outer[i%3], "POST", "/api/v1/service/"+name+"/score", body))
				}
				var wg sync.WaitGroup
				var refused, overloads atomic.Int32
				for i := range overloaded * each * 3 {
					wg.Go(func() {
						switch a := post(i/overloaded, fmt.Sprintf("iris-%d", i%overloaded)); {
						case a.reason == "FrontEndOverloaded" && a.status == 503 && a.by == "router" && a.header.Get("Retry-After") != "" && a.took <= linger:
							refused.Add(1)
						case a.reason == "Overloaded":
							overloads.Add(1)
						case a.status != 200:
							t.Errorf("answered %d %s after %v: %v", a.status, a.reason, a.took, a.transport)
						}
					})
				}
				synctest.Wait()
				most := int64(0)
				for i, f := range fl.fronts {
					used := f.room.used.Load()
					if most = max(most, used); used > size {
						t.Errorf("front end %d holds %d bytes, more than %d", i, used, size)
					}
				}
				if most < size/2-2*small { // a front end with the requests of one service only gives it half, in whole bodies
					t.Errorf("at most %d bytes of %d are used, and requests were refused", most, size)
				}
				for i := range 12 {
					a := post(i, "rose")
					a.want(t, 200, "model", "")
					if a.body != "rose" || a.took != 0 {
						t.Errorf("through %d the other service answers %q after %v", i%3, a.body, a.took)
					}
				}
				time.Sleep(40 * time.Second)
				close(hang)
				wg.Wait()
				if refused.Load() == 0 || overloads.Load() == 0 {
					t.Errorf("%d were refused for memory, %d after they had waited; want some of each", refused.Load(), overloads.Load())
				}
				synctest.Wait()
				fl.each(func(f *FrontEnd) { idle(t, f) })
			}))
		})
	}
}

// However many services take what they may, there is never more taken than there is, and always something left.
func TestSharesOfRoom(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 5, 10} {
		r, shares := &room{size: 1 << 20}, make([]share, n)
		var wg sync.WaitGroup
		for i := range shares {
			wg.Go(func() {
				for range 2000 {
					r.take(&shares[i], 1<<10)
				}
			})
		}
		wg.Wait()
		for i := range shares {
			for r.take(&shares[i], 1<<10) { // what two of them refused each other
			}
		}
		if used, least := r.used.Load(), int64(n)<<20/int64(n+2)-int64(n)<<10; used > r.size || used < least {
			t.Errorf("%d services took %d of %d bytes, want %d or more", n, used, r.size, least)
		}
		var other share
		if !r.take(&other, r.size/200) {
			t.Errorf("%d services left nothing to another", n)
		}
		r.give(&other, other.Load())
		for i := range shares {
			r.give(&shares[i], shares[i].Load())
		}
		if got := r.used.Load(); got != 0 {
			t.Errorf("%d bytes are never given back", got)
		}
	}
}

// Answers that clients do not take hold no more than that either; beyond it their pods wait.
func TestAnswersThatNobodyTakesShareMemory(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		const size = 20 * small
		f.room.size = size
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].MaxConcurrent = 100 }))
		n.listen(t, "pod:5001", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(small))
			_, _ = io.WriteString(w, strings.Repeat("x", small))
		}))
		f.SetPods("iris", up("pod:5001"))
		for range 50 {
			c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fe)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if _, err := fmt.Fprintf(c, "GET /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", primary); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if got := f.room.used.Load(); got > size || got < size/4 {
			t.Errorf("answers hold %d bytes, want no more than %d, and some", got, size)
		}
		if l := f.pools["iris"].load(time.Now()); l.busy != 1 {
			t.Errorf("no pod waits for its client: %+v", l)
		}
		time.Sleep(stall + 2*route.DefaultTimeout)
		synctest.Wait()
		idle(t, f)
		if l := f.pools["iris"].load(time.Now()); l.busy != 0 {
			t.Errorf("a pod still waits for its client: %+v", l)
		}
	})
}

// What a request is taken to hold covers what it makes the process keep.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		length int64
		major  int
		want   int64
	}{
		{0, 1, weight}, {1, 1, weight + 2}, {small, 2, weight + 2*small}, {small + 1, 1, weight + wire.Chunk}, {-1, 1, weight + wire.Chunk},
		{route.MaxBody, 2, weight + wire.Chunk + StreamBuffer}, {-1, 2, weight + wire.Chunk + StreamBuffer},
	} {
		c := passage{r: &http.Request{ContentLength: tt.length, ProtoMajor: tt.major}}
		if got := c.size(); got != tt.want {
			t.Errorf("%d bytes over HTTP/%d hold %d, want %d", tt.length, tt.major, got, tt.want)
		}
	}
}

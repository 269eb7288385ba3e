package frontend

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever goes wrong with a service, another one is answered at once, through every front end.
func TestOneServicesFaultsDisturbNoOther(t *testing.T) {
	t.Parallel()
	head := func(length int) string {
		return fmt.Sprintf("POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", primary, length)
	}
	// open sends a text from a client of its own that then neither sends nor reads.
	open := func(t *testing.T, n *network, to, text string) {
		t.Helper()
		c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		model  http.Handler
		happen func(t *testing.T, n *network, fl *fleet, c *http.Client, wg *sync.WaitGroup)
	}{
		{"its model hangs, and its queue is full", working(time.Minute), func(t *testing.T, _ *network, fl *fleet, c *http.Client, wg *sync.WaitGroup) {
			for i := range maxQueued + 100 {
				wg.Go(func() { fl.score(t, c, i%3, strings.NewReader("x")) })
			}
			synctest.Wait()
			if got := fl.fronts[fl.owner].pools["iris"].load(time.Now()); got.queued != maxQueued {
				t.Errorf("%d requests are queued, want %d", got.queued, maxQueued)
			}
		}},
		{"its model hangs up", http.HandlerFunc(hangUp), func(t *testing.T, _ *network, fl *fleet, c *http.Client, wg *sync.WaitGroup) {
			for i := range 100 {
				wg.Go(func() {
					if a := fl.score(t, c, i%3, strings.NewReader("x")); a.status != 200 { // from the pod that comes
						a.want(t, 502, "router", "ReplicaClosedConnection")
					}
				})
			}
			synctest.Wait()
		}},
		{"its pods are gone", text("ok"), func(t *testing.T, _ *network, fl *fleet, c *http.Client, wg *sync.WaitGroup) {
			fl.each(func(f *FrontEnd) { f.SetPods("iris", nil) })
			for i := range 100 {
				wg.Go(func() { fl.score(t, c, i%3, strings.NewReader("x")) })
			}
			synctest.Wait()
		}},
		{"its clients send slowly", text("ok"), func(t *testing.T, n *network, fl *fleet, _ *http.Client, _ *sync.WaitGroup) {
			for i := range 300 {
				open(t, n, fl.outer[i%3], head(10)+"half")
			}
			open(t, n, fl.outer[fl.other], head(10*small)+"half")
			synctest.Wait()
		}},
		{"its route breaks off", text("ok"), func(t *testing.T, _ *network, fl *fleet, c *http.Client, wg *sync.WaitGroup) {
			fl.each(func(f *FrontEnd) { f.RemoveRoute("iris") })
			wg.Go(func() { fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 404, "router", "UnknownService") })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fleetBubble(t, tt.model, func(t *testing.T, n *network, fl *fleet) {
				n.listen(t, "rose:5001", text("rose"))
				fl.each(func(f *FrontEnd) {
					f.SetRoute(service(t, "rose"))
					f.SetPods("rose", up("rose:5001"))
				})
				c := n.client(t)
				var wg sync.WaitGroup
				tt.happen(t, n, fl, c, &wg)
				for i := range 30 {
					a := send(c, requestTo(t, fl.outer[i%3], "POST", "/api/v1/service/rose/score", strings.NewReader("x")))
					a.want(t, 200, "model", "")
					if a.body != "rose" || a.took != 0 {
						t.Errorf("through %d the other service answers %q after %v", i%3, a.body, a.took)
					}
				}
				n.listen(t, "pod2:5001", text("ok")) // what waits comes to its end
				fl.each(func(f *FrontEnd) { f.SetPods("iris", up("pod2:5001")) })
				time.Sleep(2 * time.Minute)
				wg.Wait()
			})
		})
	}
}

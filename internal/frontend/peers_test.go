package frontend

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/route"
)

const peerToken = "peer-token"

// fleet is three front ends of a workspace, one of which owns a service.
type fleet struct {
	fronts []*FrontEnd
	outer  []string // addresses for callers
	inner  []*host
	addrs  []string // of the inner listeners
	owner  int      // of iris
	other  int
}

func newFleet(t *testing.T, n *network) *fleet {
	t.Helper()
	fl := &fleet{}
	for i := range 3 {
		outer, inner := fmt.Sprintf("fe%d:80", i), fmt.Sprintf("fe%d:9001", i)
		f := n.front(t, outer)
		fl.fronts, fl.outer, fl.addrs = append(fl.fronts, f), append(fl.outer, outer), append(fl.addrs, inner)
		fl.inner = append(fl.inner, n.serve(t, inner, n.kind(f.Inner())))
	}
	for i, f := range fl.fronts {
		f.SetPeers(fl.addrs[i], fl.addrs, peerToken)
		if f.peers.Load().owner("iris") == fl.addrs[i] {
			fl.owner = i
		}
	}
	fl.other = (fl.owner + 1) % 3
	return fl
}

func (fl *fleet) each(change func(*FrontEnd)) {
	for _, f := range fl.fronts {
		change(f)
	}
}

func (fl *fleet) score(t *testing.T, c *http.Client, i int, body io.Reader) answer {
	t.Helper()
	return send(c, requestTo(t, fl.outer[i], "POST", "/api/v1/service/iris/score", body))
}

// fleetBubble runs a test of three front ends with a service and its pod, once with each kind of server.
func fleetBubble(t *testing.T, pod http.Handler, test func(t *testing.T, n *network, fl *fleet)) {
	t.Helper()
	bubble(t, withFleet(pod, test))
}

func withFleet(pod http.Handler, test func(t *testing.T, n *network, fl *fleet)) func(*testing.T, *network, *FrontEnd) {
	return func(t *testing.T, n *network, _ *FrontEnd) {
		t.Helper()
		fl := newFleet(t, n)
		n.listen(t, "pod:5001", pod)
		fl.each(func(f *FrontEnd) {
			f.SetRoute(service(t, "iris", func(r *route.Route) { r.Versions[0].QueueWait = time.Hour }))
			f.SetPods("iris", up("pod:5001"))
		})
		test(t, n, fl)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	three := &peers{self: "a:1", addrs: []string{"a:1", "b:1", "c:1"}}
	two := &peers{self: "a:1", addrs: []string{"a:1", "b:1"}}
	count := map[string]int{}
	for i := range 3000 {
		name := fmt.Sprintf("service-%d", i)
		before, after := three.owner(name), two.owner(name)
		count[before]++
		if before != "c:1" && after != before {
			t.Fatalf("%s moved from %s to %s though only c went", name, before, after)
		}
		if elsewhere := (&peers{self: "c:1", addrs: three.addrs}).owner(name); elsewhere != before {
			t.Fatalf("%s is of %s for one front end and of %s for another", name, before, elsewhere)
		}
	}
	for addr, n := range count {
		if n < 800 || n > 1200 {
			t.Errorf("%s has %d of 3000 services, want about a third", addr, n)
		}
	}
}

func TestOneQueueForAllFrontEnds(t *testing.T) {
	t.Parallel()
	var now, top atomic.Int32
	pod := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if v := now.Add(1); v > top.Load() {
			top.Store(v)
		}
		time.Sleep(time.Second)
		now.Add(-1)
	})
	fleetBubble(t, pod, func(t *testing.T, n *network, fl *fleet) {
		c := n.client(t)
		var wg sync.WaitGroup
		for range 5 {
			for i := range fl.fronts {
				wg.Go(func() { fl.score(t, c, i, strings.NewReader("x")).want(t, 200, "model", "") })
			}
		}
		synctest.Wait()
		for i, f := range fl.fronts {
			want := load{replicas: 1}
			if i == fl.owner {
				want.busy, want.queued = 1, 14
			}
			if got := f.pools["iris"].load(time.Now()); got.busy != want.busy || got.queued != want.queued {
				t.Errorf("front end %d (the owner is %d) has the load %+v", i, fl.owner, got)
			}
		}
		wg.Wait()
		if top.Load() != 1 {
			t.Errorf("the pod had up to %d requests at a time, want 1", top.Load())
		}
		series := `berth_requests_total{code="200",service="iris",version=""}`
		total := 0.0
		fl.each(func(f *FrontEnd) { total += value(t, f, series) })
		if total != 15 {
			t.Errorf("together they count %v requests, want 15", total)
		}
	})
}

func TestOnlyTheOwnerScales(t *testing.T) {
	t.Parallel()
	fleetBubble(t, working(time.Hour), func(t *testing.T, n *network, fl *fleet) {
		fl.each(func(f *FrontEnd) { f.SetRoute(service(t, "iris", auto(1, 9, time.Second))) })
		shared := map[string]int{"iris": 1}
		var all []*deployments
		fl.each(func(f *FrontEnd) { all = append(all, scaled(t, f, shared)) })
		c := n.client(t)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { fl.score(t, c, fl.other, strings.NewReader("x")) })
		}
		time.Sleep(2 * time.Second)
		for i, d := range all {
			if got := d.seen(); (got != "") != (i == fl.owner) || i == fl.owner && !strings.HasSuffix(got, "iris=5") {
				t.Errorf("front end %d (the owner is %d) scaled %q", i, fl.owner, got)
			}
		}
		fl.each(func(f *FrontEnd) { f.SetPods("iris", nil) })
		c.CloseIdleConnections()
		time.Sleep(2 * route.DefaultTimeout)
		wg.Wait()
	})
}

func TestPassedOn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []*http.Request
	pod := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen = append(seen, r)
		mu.Unlock()
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(body)))
		w.Header().Set(requestID, "the model's own")
	})
	fleetBubble(t, pod, func(t *testing.T, n *network, fl *fleet) {
		c := n.client(t)
		body := bytes.Repeat([]byte("0123456789"), 50000)
		for i := range fl.fronts {
			r := requestTo(t, fl.outer[i], "POST", "/api/v1/service/iris/score?a=b", bytes.NewReader(body))
			r.Header.Set("X-Request-Id", "mine")
			r.Header.Set("X-Forwarded-For", "forged")
			r.Header.Set(tokenHeader, "forged")
			a := send(c, r)
			a.want(t, 200, "model", "")
			if len(a.requestIDs) != 1 || a.requestIDs[0] != "mine" {
				t.Errorf("through %d: request IDs %q", i, a.requestIDs)
			}
			if got, want := a.header.Get("X-Sum"), fmt.Sprintf("%x", sha256.Sum256(body)); got != want {
				t.Errorf("through %d the body changed", i)
			}
			last := seen[len(seen)-1]
			if last.RequestURI != "/score?a=b" || last.Header.Get(requestID) != "mine" || last.Host != fl.outer[i] {
				t.Errorf("through %d the model saw %s of %s as %q", i, last.RequestURI, last.Host, last.Header.Get(requestID))
			}
			if from := last.Header.Get("X-Forwarded-For"); from != "198.51.100.7" {
				t.Errorf("through %d the model thinks that %q asks", i, from)
			}
			if got := last.Header.Get("Authorization") + strings.Replace(last.Header.Get(tokenHeader), "forged", "", 1); got != "" {
				t.Errorf("through %d the model saw the secret %q", i, got)
			}
			refused := requestTo(t, fl.outer[i], "POST", "/api/v1/service/iris/score", nil)
			refused.Header.Set("Authorization", "Bearer wrong")
			send(c, refused).want(t, 401, "router", "Unauthorized")
			send(c, requestTo(t, fl.outer[i], "POST", "/api/v1/service/iris/score", bytes.NewReader(make([]byte, 2<<20)))).want(t, 413, "router", "BodyTooLarge")
		}
	})
}

func TestInnerListenerIsForPeers(t *testing.T) {
	t.Parallel()
	fleetBubble(t, text("ok"), func(t *testing.T, n *network, fl *fleet) {
		for _, token := range []string{"", "wrong", peerToken[:4], peerToken + "x"} {
			r := requestTo(t, fl.addrs[fl.owner], "POST", "/api/v1/service/iris/score", nil)
			r.Header.Set(tokenHeader, token)
			send(n.client(t), r).want(t, 403, "router", "NotAFrontEnd")
		}
		// Before the token is known nobody can know it.
		fl.fronts[fl.owner].SetPeers(fl.addrs[fl.owner], nil, "")
		r := requestTo(t, fl.addrs[fl.owner], "POST", "/api/v1/service/iris/score", nil)
		r.Header.Set(tokenHeader, "")
		send(n.client(t), r).want(t, 403, "router", "NotAFrontEnd")
	})
}

// One that thinks it is alone answers those that know of it.
func TestPeersLearnOfEachOtherOneByOne(t *testing.T) {
	t.Parallel()
	fleetBubble(t, text("ok"), func(t *testing.T, n *network, fl *fleet) {
		fl.fronts[fl.owner].SetPeers(fl.addrs[fl.owner], fl.addrs[fl.owner:fl.owner+1], peerToken)
		for i := range fl.fronts {
			fl.score(t, n.client(t), i, strings.NewReader("x")).want(t, 200, "model", "")
		}
	})
}

func TestOwnerIsKilled(t *testing.T) {
	t.Parallel()
	pod := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "long" {
			<-r.Context().Done()
		}
		_, _ = w.Write(body)
	})
	fleetBubble(t, pod, func(t *testing.T, n *network, fl *fleet) {
		c := n.client(t)
		fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 200, "model", "")
		cut := make(chan answer)
		go func() { cut <- fl.score(t, c, fl.other, strings.NewReader("long")) }()
		synctest.Wait()
		fl.inner[fl.owner].kill()
		// What it worked on may have run, so it is not sent again.
		(<-cut).want(t, 502, "router", "FrontEndClosedConnection")
		// All others are answered, before anyone tells who is gone.
		big := strings.Repeat("0123456789", 50000)
		dialled := n.dialled(fl.addrs[fl.owner])
		for range 5 {
			a := fl.score(t, c, fl.other, strings.NewReader(big))
			a.want(t, 200, "model", "")
			if a.body != big || len(a.requestIDs) != 1 {
				t.Fatalf("%d of %d bytes came back, request IDs %q", len(a.body), len(big), a.requestIDs)
			}
		}
		if got := n.dialled(fl.addrs[fl.owner]) - dialled; got != 0 {
			t.Errorf("the one that just died was tried %d times", got)
		}
		for i := range 2 {
			time.Sleep(awayFor)
			for range 3 {
				fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 200, "model", "")
			}
			if got := n.dialled(fl.addrs[fl.owner]) - dialled; got != i+1 {
				t.Errorf("the dead one was tried %d times, want once after each while", got)
			}
		}
		// Then the others agree on a new owner.
		var left []string
		for i, a := range fl.addrs {
			if i != fl.owner {
				left = append(left, a)
			}
		}
		owners := 0
		for i, f := range fl.fronts {
			if i == fl.owner {
				continue
			}
			f.SetPeers(fl.addrs[i], left, peerToken)
			if f.owns(f.service("iris")) {
				owners++
			}
		}
		if owners != 1 {
			t.Errorf("%d of those left own the service, want 1", owners)
		}
		for i := range fl.fronts {
			if i != fl.owner {
				fl.score(t, c, i, strings.NewReader("x")).want(t, 200, "model", "")
			}
		}
	})
}

// A front end that is killed breaks its connections off one by one, and its machine takes others for it until it is gone. Only the first
// request is lost. If it lives after all, it gets its requests again after a while.
func TestOwnerBreaksConnectionsOff(t *testing.T) {
	t.Parallel()
	fleetBubble(t, text("ok"), func(t *testing.T, n *network, fl *fleet) {
		c := n.client(t)
		n.listen(t, fl.addrs[fl.owner], http.HandlerFunc(hangUp))
		fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 502, "router", "FrontEndClosedConnection")
		for range 5 {
			fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 200, "model", "")
		}
		n.listen(t, fl.addrs[fl.owner], fl.fronts[fl.owner].Inner())
		series := `berth_requests_total{code="200",service="iris",version=""}`
		before := value(t, fl.fronts[fl.other], series)
		time.Sleep(awayFor)
		for range 5 {
			fl.score(t, c, fl.other, strings.NewReader("x")).want(t, 200, "model", "")
		}
		if got := value(t, fl.fronts[fl.other], series); got != before {
			t.Errorf("%v requests were served here, though the owner lives", got-before)
		}
	})
}

// Half an answer does not become a whole one on its way, and says nothing of the front end that passes it on.
func TestPassedOnAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	for name, half := range map[string]http.HandlerFunc{
		"unknown length": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", small))
			panic(http.ErrAbortHandler)
		},
		"less than buffers hold": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(2*small))
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fleetBubble(t, half, func(t *testing.T, n *network, fl *fleet) {
				c := n.client(t)
				if a := fl.score(t, c, fl.other, strings.NewReader("x")); a.status != 200 || a.err == nil {
					t.Errorf("answered %d %s with %d bytes: %v", a.status, a.reason, len(a.body), a.transport)
				}
				fl.fronts[fl.owner].SetPods("iris", nil)
				n.listen(t, "pod2:5001", text("ok"))
				fl.fronts[fl.owner].SetPods("iris", up("pod2:5001")) // only the owner knows it
				if a := fl.score(t, c, fl.other, strings.NewReader("x")); a.body != "ok" {
					t.Errorf("the next one was not served by the owner: %d %s", a.status, a.reason)
				}
			})
		})
	}
}

func TestClientOfAPassedOnRequestIsGone(t *testing.T) {
	t.Parallel()
	leaving(t, withFleet(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "long" {
			<-r.Context().Done()
		}
	}), func(t *testing.T, n *network, fl *fleet) {
		c, err := n.dialFrom("198.51.100.8:1")(t.Context(), "tcp", fl.outer[fl.other])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "POST /api/v1/service/iris/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primary+"\r\nContent-Length: 4\r\n\r\nlong")
		synctest.Wait()
		if got := fl.fronts[fl.owner].pools["iris"].load(time.Now()); got.busy != 1 {
			t.Fatalf("the owner's load is %+v", got)
		}
		_ = c.Close()
		synctest.Wait()
		if got := fl.fronts[fl.owner].pools["iris"].load(time.Now()); got.busy != 0 {
			t.Errorf("the pod still works for nobody: %+v", got)
		}
		fl.score(t, n.client(t), fl.other, strings.NewReader("x")).want(t, 200, "model", "")
	}))
}

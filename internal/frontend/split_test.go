package frontend

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/route"
)

// endpoint has versions v0, v1 and so on with these percentages; fallback is the default one, -1 for none.
func endpoint(t *testing.T, fallback int, percent ...int) *route.Route {
	t.Helper()
	return service(t, "iris", func(r *route.Route) {
		like := r.Versions[0]
		r.Versions = nil
		for i, p := range percent {
			v := like
			v.Name, v.Workload, v.Percent, v.Default = fmt.Sprintf("v%d", i), fmt.Sprintf("iris-v%d", i), p, i == fallback
			r.Versions = append(r.Versions, v)
		}
	})
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		fallback int
		percent  []int
		want     []int // of 100
	}{
		{"one", 0, []int{100}, []int{100}},
		{"one of which nothing was said", 0, []int{0}, []int{100}},
		{"halves", 0, []int{50, 50}, []int{50, 50}},
		{"canary", 0, []int{90, 10}, []int{90, 10}},
		{"the rest goes to the default", 1, []int{30, 20, 10}, []int{30, 60, 10}},
		{"all of it", 2, []int{0, 0, 0}, []int{0, 0, 100}},
		{"default without a share", 0, []int{0, 100}, []int{0, 100}},
		{"none is the default: the first is", -1, []int{30, 10}, []int{90, 10}},
		{"six", 5, []int{1, 2, 3, 4, 5, 6}, []int{1, 2, 3, 4, 5, 85}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := New(quiet)
			r := endpoint(t, tt.fallback, tt.percent...)
			f.SetRoute(r)
			split := f.service("iris").split
			got := map[string]int{}
			for i := range 10000 {
				got[split.next().Name]++
				for v, share := range tt.want { // evenly, not only in the end
					fair := float64((i+1)*share) / 100
					if off := math.Abs(float64(got[fmt.Sprintf("v%d", v)]) - fair); off > 1 {
						t.Fatalf("after %d requests v%d is %v away from its share of %v", i+1, v, off, fair)
					}
				}
			}
			want := map[string]int{}
			for v, share := range tt.want {
				if share > 0 {
					want[fmt.Sprintf("v%d", v)] = share * 100
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("10000 requests went %v, want %v", got, want)
			}
		})
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		r := endpoint(t, 0, 80, 20, 0)
		f.SetRoute(r)
		for _, v := range r.Versions {
			n.listen(t, v.Name+":5001", text(v.Name))
			f.SetPods(v.Workload, up(v.Name+":5001"))
		}
		c := n.client(t)
		got := map[string]int{}
		for range 100 {
			a := score(t, c, "iris", "x")
			if a.header.Get(VersionHeader) != a.body {
				t.Fatalf("%s answered, the header says %s", a.body, a.header.Get(VersionHeader))
			}
			got[a.body]++
		}
		if !maps.Equal(got, map[string]int{"v0": 80, "v1": 20}) {
			t.Errorf("100 requests went %v", got)
		}
		for v := range r.Versions { // each can be asked for itself, also the one without traffic
			name := fmt.Sprintf("v%d", v)
			if a := send(c, request(t, "POST", "/api/v1/service/iris/version/"+name+"/score", strings.NewReader("x"))); a.body != name {
				t.Errorf("by its path, %s: %d %q", name, a.status, a.body)
			}
			byHeader := request(t, "POST", "/api/v1/service/iris/score", strings.NewReader("x"))
			byHeader.Header.Set(VersionHeader, name)
			if a := send(c, byHeader); a.body != name {
				t.Errorf("by the header, %s: %d %q", name, a.status, a.body)
			}
		}
		unknown := request(t, "POST", "/api/v1/service/iris/score", strings.NewReader("x"))
		unknown.Header.Set(VersionHeader, "v9")
		send(c, unknown).want(t, 404, "router", "UnknownVersion")
		if got := value(t, f, `berth_requests_total{code="200",service="iris",version="v1"}`); got != 22 {
			t.Errorf("%v requests are counted for v1, want 22", got)
		}
		f.SetRoute(endpoint(t, 1, 0, 100, 0)) // the traffic is switched
		for range 10 {
			if a := score(t, c, "iris", "x"); a.body != "v1" {
				t.Errorf("%s still gets traffic", a.body)
			}
		}
		f.SetRoute(endpoint(t, 0)) // an endpoint without versions
		score(t, c, "iris", "x").want(t, 404, "router", "UnknownVersion")
	})
}

package frontend

import (
	"testing"
	"testing/synctest"
	"time"
)

// The clock that says when to look and the one that says whether a period is over are not the same: a look that
// comes a moment too early must not be put off to the next one.
func TestDecisionsKeepToThePeriod(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, _ *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", auto(1, 4, time.Second)))
		f.SetPods("iris", up("pod:5001"))
		began := time.Now()
		d := &deployments{sizes: map[string]int{"iris": 1}, began: began}
		s := f.scaling(d, d.replicas)
		look := func(after time.Duration) {
			s.look(t.Context(), began.Add(after))
			synctest.Wait()
		}
		look(0)
		if pod, why := f.pools["iris"].acquire(t.Context(), 0, 0); pod == nil {
			t.Fatalf("no pod: %v", why)
		}
		look(3 * lookEvery)
		if got := d.seen(); got != "" {
			t.Errorf("scaled %q before the period was over", got)
		}
		look(time.Second - time.Millisecond)
		if got, _ := d.replicas("iris"); got != 2 {
			t.Errorf("%d replicas a period after the last look, want 2", got)
		}
	})
}

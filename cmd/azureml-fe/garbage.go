package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go collects garbage when the heap has doubled. For the small heap of a front end that is several times a second under load, and
// requests wait for each collection: the longer, the more of them wait for models, as all their stacks are scanned. GOMEMLIMIT bounds
// the heap in any case.
const (
	// share is the part of a processor's time that collections may take, if memory allows.
	share = 1.0 / 500
	// heapFloor is the size in bytes that the heap always may grow to.
	heapFloor = 40 << 20
	// heapCeiling is the size in bytes beyond which it is not to grow for the sake of share.
	heapCeiling = 200 << 20
)

// heap is what Go says of the heap and of all collections until now.
type heap struct {
	live, roots uint64  // what the last collection found in use, in bytes; roots are not on the heap
	allocated   uint64  // in bytes
	collections uint64  // how many
	spent       float64 // on them, in seconds of processors' time
}

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(s)
	return heap{s[0].Value.Uint64(), s[1].Value.Uint64() + s[2].Value.Uint64(), s[3].Value.Uint64(), s[4].Value.Uint64(), s[5].Value.Float64()}
}

// collectLess sets how much the heap may grow, each second until ctx ends.
func collectLess(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	percent, cost := 100, 0.0
	for at, h := time.Now(), readHeap(); ; {
		before, began := h, at
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		at, h = time.Now(), readHeap()
		if n := h.collections - before.collections; n > 0 {
			cost = (h.spent - before.spent) / float64(n)
		}
		rate := float64(h.allocated-before.allocated) / at.Sub(began).Seconds()
		want := gcPercent(h.live, h.roots, uint64(rate*cost/share))
		if 4*want < 3*percent || 3*want > 4*percent { // each change stops everything for a moment
			debug.SetGCPercent(want)
			percent = want
		}
	}
}

// gcPercent is by how many percent of live and roots the heap may grow until the next collection, so that it gets room for
// so many bytes.
func gcPercent(live, roots, room uint64) int {
	const least, most = 100, 4000
	if live == 0 { // nothing was collected yet
		return least
	}
	size := min(max(live+room, heapFloor), heapCeiling)
	if size <= live {
		return least
	}
	return int(min(max(100*(size-live)/(live+roots), least), most))
}

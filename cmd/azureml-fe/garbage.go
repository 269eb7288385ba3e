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
	share = 1.0 / 1000
	// heapFloor is the size in bytes that the heap always may grow to.
	heapFloor = 40 << 20
	// heapCeiling is the size in bytes beyond which it is not to grow for the sake of share, but for the third by which
	// collectLess lets it be off.
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

// pace is what is known of collections.
type pace struct {
	last heap
	cost float64 // of one, in seconds of processors' time; 0 until the first
}

// room is how many bytes are to be allocated between two collections, so that they take their share. h was read so long after the last one.
func (p *pace) room(h heap, after time.Duration) uint64 {
	if n := h.collections - p.last.collections; n > 0 {
		p.cost = (h.spent - p.last.spent) / float64(n)
	}
	rate := float64(h.allocated-p.last.allocated) / after.Seconds()
	p.last = h
	return uint64(rate * p.cost / share)
}

// collectLess sets how much the heap may grow, each second until ctx ends.
func collectLess(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	p, percent := pace{last: readHeap()}, 100
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h, now := readHeap(), time.Now()
		want := gcPercent(h.live, h.roots, p.room(h, now.Sub(last)))
		last = now
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
	size := max(live, min(max(live+room, heapFloor), heapCeiling))
	return int(min(max(100*(size-live)/(live+roots), least), most))
}

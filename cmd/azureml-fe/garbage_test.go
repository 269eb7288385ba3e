package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// A process with as little in use as this one may grow to the floor.
func TestCollectionsComeLessOften(t *testing.T) { //nolint:paralleltest // the percentage is the process's
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		runtime.GC()
		var ended bool
		go func() { collectLess(ctx); ended = true }()
		time.Sleep(1500 * time.Millisecond)
		cancel()
		synctest.Wait()
		if !ended {
			t.Error("it goes on after its end")
		}
		h := readHeap()
		if got, want := debug.SetGCPercent(100), gcPercent(h.live, h.roots, 0); got < want/2 || want <= 100 {
			t.Errorf("the heap, of %d bytes in use, may grow by %d %%, want %d or more", h.live, got, want)
		}
		if h.collections == 0 || h.spent <= 0 || h.allocated < h.live {
			t.Errorf("Go says %+v", h)
		}
	})
}

func TestCollectionsTakeTheirShare(t *testing.T) {
	t.Parallel()
	p := pace{last: heap{allocated: 1000, collections: 2, spent: 0.5}}
	for _, tt := range []struct {
		name  string
		h     heap
		after time.Duration
		want  uint64
	}{
		{"what none has cost yet", heap{allocated: 3000, collections: 2, spent: 0.5}, time.Second, 0},
		// 2 collections of 0.25 s each are to come every 250 s, in which 1000 bytes a second are allocated
		{"after two", heap{allocated: 5000, collections: 4, spent: 1}, 2 * time.Second, 250_000},
		{"none since: they cost what they did", heap{allocated: 9000, collections: 4, spent: 1}, time.Second, 1_000_000},
		{"a cheap one", heap{allocated: 10_000, collections: 5, spent: 1.125}, time.Second, 125_000},
		{"nothing is allocated", heap{allocated: 10_000, collections: 5, spent: 1.125}, time.Second, 0},
	} {
		if got := p.room(tt.h, tt.after); got != tt.want {
			t.Errorf("%s: room for %d bytes, want %d", tt.name, got, tt.want)
		}
	}
}

func TestHeapsGrowWithinBounds(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tt := range []struct {
		name              string
		live, roots, room uint64 // MiB
		want              int
	}{
		{"nothing is known", 0, 0, 0, 100},
		{"idle", 5, 0, 0, 700},
		{"idle, with roots", 5, 2, 0, 500},
		{"idle and tiny", 1, 0, 0, 3900},
		{"idle, at the floor with what doubles", 20, 0, 0, 100},
		{"idle and large", 400, 0, 0, 100},
		{"more room than the floor", 5, 3, 60, 750},
		{"many stacks", 22, 3, 100, 400},
		{"more room than the ceiling", 20, 0, 500, 900},
		{"little in use, more room than the ceiling", 1, 0, 500, 4000},
		{"more in use than the ceiling", 250, 0, 500, 100},
	} {
		got := gcPercent(tt.live*mib, tt.roots*mib, tt.room*mib)
		if got != tt.want {
			t.Errorf("%s: the heap grows by %d %%, want %d", tt.name, got, tt.want)
		}
		if size := tt.live + (tt.live+tt.roots)*uint64(got)/100; got > 100 && size > max(heapFloor/mib, min(tt.live+tt.room, heapCeiling/mib)) {
			t.Errorf("%s: the heap grows to %d MiB", tt.name, size)
		}
	}
}

package main

import "testing"

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

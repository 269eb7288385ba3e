package main

import "testing"

func TestSmallHeapsAreCollectedLessOften(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		live uint64 // MiB
		want int
	}{
		{0, 100}, {1, 700}, {5, 700}, {8, 400}, {10, 300}, {16, 150}, {20, 100}, {40, 100}, {400, 100},
	} {
		got := gcPercent(tt.live << 20)
		if got != tt.want {
			t.Errorf("with %d MiB in use the heap grows by %d %%, want %d", tt.live, got, tt.want)
		}
		if tt.live > 0 && got > 100 && tt.live*uint64(100+got)/100 > heapFloor>>20 {
			t.Errorf("with %d MiB in use the heap grows beyond the floor", tt.live)
		}
	}
}

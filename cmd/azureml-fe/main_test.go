package main

import "testing"

func TestSmallHeapsAreCollectedLessOften(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		live uint64 // MiB
		want int
	}{
		{0, 100}, {1, 700}, {7, 700}, {8, 600}, {14, 300}, {20, 150}, {28, 100}, {56, 100}, {400, 100},
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

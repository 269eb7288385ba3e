// Package memtest proves that large files pass through a process in constant memory. A large file is several times
// what the process may have in memory; BERTH_LARGE makes it larger, in GiB, for minutes and that much disk:
//
//	BERTH_LARGE=10 go test -run ^TestLarge -v -timeout 1h ./internal/blob ./internal/image ./internal/registry
//
// The race detector takes a multiple of the time and memory, so these tests are not for it.
package memtest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Limit is what a process may have in memory at most, whatever the size of the file.
const Limit = 256 << 20 // bytes

// Size is how many bytes a large file has: 1 GiB, four times Limit, or what BERTH_LARGE says.
func Size(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv("BERTH_LARGE")
	if text == "" {
		return 4 * Limit
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		t.Fatalf("BERTH_LARGE is %q, and has to be a whole number of GiB", text)
	}
	return n << 30
}

// Content is a reader of so many bytes, the same ones for the same seed.
func Content(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

// Peak does something, and fails the test if the process had more than Limit in memory at any time meanwhile.
func Peak(t *testing.T, what string, do func() error) {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200); err != nil { // begins to measure anew
		t.Fatal(err)
	}
	if err := do(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	peak, err := highWater()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: at most %d MiB in memory", what, peak>>20)
	if peak > Limit {
		t.Errorf("%s took %d MiB of memory, want at most %d MiB", what, peak>>20, int64(Limit)>>20)
	}
}

// highWater is the most memory that the process had, in bytes.
func highWater() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no VmHWM")
}

// Package memtest proves that large files pass through a process in constant memory. Its tests take minutes and
// gigabytes of disk, so they run only when BERTH_LARGE says how many GiB a large file has:
//
//	BERTH_LARGE=10 go test -run Large -v -timeout 1h ./internal/blob ./internal/image ./internal/registry
package memtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
)

// Limit is what a process may have in memory at most, whatever the size of the file.
const Limit = 256 << 20 // bytes

// Size is how large a file is to be. Without BERTH_LARGE it skips the test.
func Size(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv("BERTH_LARGE")
	if text == "" {
		t.Skip("set BERTH_LARGE to a size in GiB, like 10")
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		t.Fatalf("BERTH_LARGE is %q, and has to be a whole number of GiB", text)
	}
	return n << 30
}

// Content is a reader of so many bytes, the same ones for the same seed.
func Content(seed byte, size int64) io.Reader {
	return io.LimitReader(&pattern{next: uint64(seed) + 1}, size)
}

type pattern struct{ next uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		if i%8 == 0 { // xorshift
			p.next ^= p.next << 13
			p.next ^= p.next >> 7
			p.next ^= p.next << 17
		}
		b[i] = byte(p.next >> (i % 8 * 8)) //nolint:gosec // its low byte is meant
	}
	return len(b), nil
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

package thread_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/cluster/local/thread"
)

// TestSpend_FirstThread holds so many threads at once that Go hands out all that it has before it makes new ones, the
// first one too.
func TestSpend_FirstThread(t *testing.T) {
	const all = 100
	var here, done sync.WaitGroup
	here.Add(all)
	ids := make([]int, all)
	for i := range all {
		done.Go(func() {
			_ = thread.Spend(func() error {
				ids[i] = unix.Gettid()
				here.Done()
				here.Wait()
				return nil
			})
		})
	}
	done.Wait()
	seen := map[int]bool{}
	for _, id := range ids {
		if id == os.Getpid() {
			t.Error("the process's first thread was used, which does not end")
		}
		if seen[id] {
			t.Errorf("thread %d was used twice", id)
		}
		seen[id] = true
	}
}

func TestSpend_Error(t *testing.T) {
	want := errors.New("no")
	if err := thread.Spend(func() error { return want }); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
}

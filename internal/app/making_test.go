package app

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/image"
)

// Whoever needs an image that is being made is held up for two seconds at most, and told why the last attempt failed.
func TestMaking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("the registry is silent")
		var attempts atomic.Int32
		m := &making{of: func(ctx context.Context) (image.Reference, error) {
			if attempts.Add(1) > 1 {
				return "made", nil
			}
			<-ctx.Done()
			return "", down
		}}
		start := time.Now()
		for range 20 {
			if ref, err := m.get(t.Context()); ref != "" || err == nil {
				t.Fatalf("%q, %v while it is being made", ref, err)
			}
		}
		if took := time.Since(start); took != 20*makingPatience || attempts.Load() != 1 {
			t.Errorf("asking took %v, for %d attempts", took, attempts.Load())
		}
		time.Sleep(makingLimit - time.Since(start) + time.Nanosecond)
		m.mu.Lock()
		err := m.err
		m.mu.Unlock()
		if !errors.Is(err, down) {
			t.Errorf("the attempt ended in %v", err)
		}
		for range 2 {
			if ref, err := m.get(t.Context()); ref != "made" || err != nil {
				t.Errorf("then %q, %v", ref, err)
			}
		}
		if n := attempts.Load(); n != 2 {
			t.Errorf("%d attempts", n)
		}
	})
}

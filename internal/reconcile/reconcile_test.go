package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// queue is the part of a store that the runner uses, in memory.
type queue struct {
	store.Store // nil: the runner has no business with the rest
	mu          sync.Mutex
	due         map[string]time.Time
	leased      map[string]time.Time // until
	fail        error                // of the next LeaseDue
	woken       chan struct{}
}

func newQueue() *queue {
	return &queue{due: map[string]time.Time{}, leased: map[string]time.Time{}, woken: make(chan struct{}, 1)}
}

func (q *queue) wake(key string, at time.Time) {
	q.mu.Lock()
	q.due[key] = at
	q.mu.Unlock()
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

func (q *queue) settle(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.due, key)
	delete(q.leased, key)
}

func (q *queue) LeaseDue(_ context.Context, now time.Time, _ string, lease time.Duration, limit int) ([]store.Wakeup, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.fail; err != nil {
		q.fail = nil
		return nil, err
	}
	var out []store.Wakeup
	for key, at := range q.due {
		if len(out) < limit && !at.After(now) && !q.leased[key].After(now) {
			q.leased[key] = now.Add(lease)
			out = append(out, store.Wakeup{Key: key})
		}
	}
	return out, nil
}

func (q *queue) NextDue(_ context.Context, now time.Time) (time.Time, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var next time.Time
	for key, at := range q.due {
		if until := q.leased[key]; until.After(at) {
			at = until
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next, !next.IsZero(), nil
}

func (q *queue) WakeAll(_ context.Context, now time.Time, _ time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, at := range q.due {
		if at.After(now) {
			q.due[key] = now
		}
	}
	return nil
}

func (q *queue) Woken() <-chan struct{} { return q.woken }

// worker does what pass says and settles what it did.
type worker struct {
	q     *queue
	pass  func(ctx context.Context, key string) error
	mu    sync.Mutex
	later []string
}

func (w *worker) Reconcile(ctx context.Context, k store.Wakeup) error {
	if err := w.pass(ctx, k.Key); err != nil {
		return err
	}
	w.q.settle(k.Key)
	return nil
}

func (w *worker) RetryLater(_ context.Context, k store.Wakeup) error {
	w.mu.Lock()
	w.later = append(w.later, k.Key)
	w.mu.Unlock()
	w.q.settle(k.Key)
	return nil
}

// run starts a runner in the bubble and returns what stops it and waits for its end.
func run(t *testing.T, w *worker, workers int, log *bytes.Buffer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	r := &Runner{Store: w.q, Worker: w, Owner: "me", Workers: workers, Lease: 10 * time.Second, Now: time.Now, Logger: slog.New(slog.NewTextHandler(log, nil))}
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestRunner_DoesWorkWhenItIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var at []time.Duration
		begin := time.Now()
		w := &worker{q: q, pass: func(context.Context, string) error { at = append(at, time.Since(begin)); return nil }}
		q.wake("now", begin)
		stop := run(t, w, 1, new(bytes.Buffer))
		synctest.Wait()
		q.wake("later", begin.Add(90*time.Second))
		time.Sleep(2 * time.Minute)
		q.wake("woken", time.Now()) // a wake-up is taken at once, not when the loop looks next
		synctest.Wait()
		stop()
		if len(at) != 3 || at[0] != 0 || at[1] < 90*time.Second || at[1] > 91*time.Second || at[2] != 2*time.Minute {
			t.Errorf("work was done after %v", at)
		}
	})
}

func TestRunner_SideBySideAndNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var mu sync.Mutex
		now, most := map[string]int{}, 0
		w := &worker{q: q, pass: func(_ context.Context, key string) error {
			mu.Lock()
			now[key]++
			if now[key] > 1 {
				t.Errorf("%s is in two pairs of hands", key)
			}
			most = max(most, len(now))
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			delete(now, key)
			mu.Unlock()
			return nil
		}}
		for _, key := range strings.Fields("a b c d e f g h i j") {
			q.wake(key, time.Now())
		}
		begin := time.Now()
		stop := run(t, w, 4, new(bytes.Buffer))
		for {
			synctest.Wait()
			if _, left, _ := q.NextDue(t.Context(), time.Now()); !left {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		if most != 4 || time.Since(begin) > 4*time.Second {
			t.Errorf("at most %d at once, %v in all", most, time.Since(begin))
		}
	})
}

func TestRunner_SurvivesFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.fail = errors.New("the disk is full")
		var log bytes.Buffer
		passes := map[string]int{}
		w := &worker{q: q, pass: func(ctx context.Context, key string) error {
			passes[key]++
			switch key {
			case "panics":
				panic("a bug")
			case "fails":
				return errors.New("a fault")
			case "hangs":
				<-ctx.Done() // its context ends before its lease does
				return ctx.Err()
			}
			return nil
		}}
		for _, key := range []string{"panics", "fails", "hangs", "works"} {
			q.wake(key, time.Now())
		}
		stop := run(t, w, 1, &log)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		stop()
		for _, key := range []string{"panics", "fails", "hangs", "works"} {
			if passes[key] != 1 {
				t.Errorf("%s had %d passes", key, passes[key])
			}
		}
		if len(w.later) != 3 {
			t.Errorf("retried later: %v", w.later)
		}
		for _, text := range []string{"the disk is full", "panic: a bug", "a fault"} {
			if !strings.Contains(log.String(), text) {
				t.Errorf("the log does not say %q:\n%s", text, log.String())
			}
		}
	})
}

func TestRunner_ClockGoesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var back atomic.Int64 // what the clock on the wall lags
		clock := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		done := time.Time{}
		w := &worker{q: q, pass: func(context.Context, string) error { done = time.Now(); return nil }}
		begin := time.Now()
		q.wake("soon", begin.Add(time.Minute))
		ctx, cancel := context.WithCancel(t.Context())
		r := &Runner{Store: q, Worker: w, Owner: "me", Workers: 1, Lease: 10 * time.Second, Now: clock, Logger: slog.New(slog.DiscardHandler)}
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		back.Store(int64(24 * time.Hour))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if done.IsZero() || done.Sub(begin) > 2*time.Minute {
			t.Errorf("what was due after a minute was done after %v", done.Sub(begin))
		}
	})
}

func TestRunner_StopsWhenItsPassesHave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		ended := false
		w := &worker{q: q, pass: func(ctx context.Context, _ string) error {
			<-ctx.Done()
			time.Sleep(time.Second) // it stores what it found
			ended = true
			return nil
		}}
		q.wake("a", time.Now())
		stop := run(t, w, 2, new(bytes.Buffer))
		synctest.Wait()
		stop()
		if !ended {
			t.Error("Run returned before the pass ended")
		}
	})
}

// Package reconcile runs the loop that turns wake-ups into work. It leases wake-ups that
// are due from the store, gives each to a worker, and sleeps until the next one. It
// knows nothing of what the work is, and keeps nothing that a crash could lose: a lease
// that runs out is taken again.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// Worker has one look at what a wake-up names and settles it in its own transaction.
type Worker interface {
	Reconcile(ctx context.Context, w store.Wakeup) error
	// RetryLater settles a wake-up whose pass failed, and wakes it again later.
	RetryLater(ctx context.Context, w store.Wakeup) error
}

// Runner is the loop.
type Runner struct {
	Store   store.Store
	Worker  Worker
	Owner   string        // names this process in leases
	Workers int           // passes at the same time
	Lease   time.Duration // how long a pass may take; it is cancelled shortly before
	Now     func() time.Time
	Logger  *slog.Logger
}

// longestSleep bounds how long the loop trusts its own arithmetic about the next wake-up,
// because the machine's clock may jump.
const longestSleep = 5 * time.Second

// triesToStore is how often a pass that failed tries to store that, a second apart: a disk that
// was full for a moment costs a second then, and not the rest of the lease.
const triesToStore = 10

// Run works until ctx ends, and returns when all passes have ended.
func (r *Runner) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, r.Workers)
	for range r.Workers {
		free <- struct{}{}
	}
	latest := r.Now().Round(0) // the clock on the wall, which can go back
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-free:
		}
		now := r.Now().Round(0)
		if now.Before(latest.Add(-time.Second)) {
			r.Logger.WarnContext(ctx, "the machine's clock went back; all work is looked at again", "by", latest.Sub(now))
			if err := r.Store.WakeAll(ctx, now, r.Lease); err != nil {
				r.Logger.ErrorContext(ctx, "waking all work failed; trying again", "error", err)
				now = latest // so that the next round finds the same
			}
		}
		latest = now
		due, err := r.Store.LeaseDue(ctx, r.Now(), r.Owner, r.Lease, 1)
		if err != nil || len(due) == 0 {
			free <- struct{}{}
			if err != nil && ctx.Err() == nil {
				r.Logger.ErrorContext(ctx, "taking work from the store failed; trying again", "error", err)
			}
			r.sleep(ctx, err)
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { free <- struct{}{} }()
			r.pass(ctx, due[0])
		}()
	}
}

func (r *Runner) sleep(ctx context.Context, failed error) {
	pause := longestSleep
	if failed != nil {
		pause = time.Second
	} else if at, ok, err := r.Store.NextDue(ctx, r.Now()); err == nil && ok {
		pause = min(pause, max(at.Sub(r.Now()), time.Millisecond))
	}
	wait(ctx, pause, r.Store.Woken())
}

// wait returns after d, or earlier when ctx ends or woken is signalled; nil never is.
func wait(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-woken:
	}
}

func (r *Runner) pass(ctx context.Context, w store.Wakeup) {
	// A pass that is under way when Berth stops is let finish what it stores; its own
	// waiting ends with the context.
	limited, cancel := context.WithTimeout(ctx, r.Lease*9/10)
	defer cancel()
	err := r.protected(limited, w)
	if err == nil || ctx.Err() != nil {
		return
	}
	r.Logger.ErrorContext(ctx, "reconcile pass failed; it will be tried again", "resource", w.Key, "error", err)
	for tries := 0; ; tries++ {
		err := r.Worker.RetryLater(ctx, w)
		if err == nil {
			return
		}
		if tries == triesToStore || ctx.Err() != nil {
			r.Logger.ErrorContext(ctx, "the retry could not be stored; the lease will run out instead", "resource", w.Key, "error", err)
			return
		}
		wait(ctx, time.Second, nil)
	}
}

func (r *Runner) protected(ctx context.Context, w store.Wakeup) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return r.Worker.Reconcile(ctx, w)
}

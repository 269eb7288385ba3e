// Package build makes images in the background, for passes of reconcilers that ask again and again how it goes. It knows
// neither images nor who wants them. Builds are in memory only: they end with Berth, and after a start the passes begin
// again what their rows still want, for which the registry has what was made before.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

const (
	// Limit is how long one attempt may take, from its turn on.
	Limit = 15 * time.Minute
	// patience is how long attempts in a row may end in errors that may pass: a registry that restarts is back by then.
	patience = 2 * time.Minute
	again    = 5 * time.Second  // after an attempt that failed for a reason that may pass
	kept     = 10 * time.Minute // how long one that has ended is remembered, so that passes find it
	wakeTime = 10 * time.Second
)

var (
	// ErrEnding is what an attempt ends in that Berth's end cut off.
	ErrEnding = errors.New("Berth is ending")
	// ErrTooLong is what an attempt ends in that took longer than Limit.
	ErrTooLong = fmt.Errorf("it took longer than %v", Limit)
)

// Builds are all builds of this process, whoever wants them: they share its processors, disk and network. It is safe for
// concurrent use.
type Builds struct {
	Manager *resource.Manager // of the rows that want them
	AtATime int               // how many run at a time; 0 means as many as there are processors, from 2 to 4

	mu      sync.Mutex
	byKey   map[string]remembered
	slots   chan struct{}
	life    context.Context // ends when they are to end
	kill    context.CancelFunc
	running sync.WaitGroup
}

// remembered is a Build of any type.
type remembered interface{ endedBefore(t time.Time) bool }

// Build is one attempt after the other to make something.
type Build[T any] struct {
	mu    sync.Mutex
	lines []string
	done  bool
	made  T
	err   error
	at    time.Time // when the attempt ended
	since time.Time // when the first of several attempts in a row ended in an error

	before error // what the attempt before ended in, nil for the first one
}

// Ensure begins a build, or reports how it goes. key says what is wanted: another key is another build. An attempt that
// failed for a reason that may pass is followed by another one, unless permanent says of its error that it will not pass.
// work runs with the values of ctx, but for at most Limit and no longer than Berth runs; what it says is shown to people. The
// row is woken when an attempt ends.
func Ensure[T any](ctx context.Context, b *Builds, key, row string, permanent func(error) bool, work func(ctx context.Context, say func(line string)) (T, error)) *Build[T] {
	now := b.Manager.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready()
	for k, old := range b.byKey {
		if old.endedBefore(now.Add(-kept)) {
			delete(b.byKey, k)
		}
	}
	fresh := &Build[T]{}
	if last, ok := b.byKey[key].(*Build[T]); ok {
		if !last.follow(fresh, now, permanent) {
			return last
		}
	}
	if b.life.Err() != nil {
		return &Build[T]{done: true, err: ErrEnding}
	}
	b.byKey[key] = fresh
	b.running.Go(func() {
		var made T
		err := b.run(ctx, func(ctx context.Context) (err error) {
			made, err = work(ctx, fresh.say)
			return err
		})
		if err != nil && (fresh.before == nil || fresh.before.Error() != err.Error()) {
			b.Manager.Logger.WarnContext(ctx, "making images failed", "resource", row, "error", err)
		}
		fresh.end(made, err, b.Manager.Now())
		b.wake(row)
	})
	return fresh
}

// ready makes what the zero value lacks. b.mu is held.
func (b *Builds) ready() {
	if b.byKey != nil {
		return
	}
	b.byKey = map[string]remembered{}
	b.slots = make(chan struct{}, cmp.Or(b.AtATime, min(max(runtime.GOMAXPROCS(0), 2), 4)))
	b.life, b.kill = context.WithCancel(context.Background())
}

// run runs an attempt in its turn.
func (b *Builds) run(ctx context.Context, work func(context.Context) error) (err error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.life.Done():
		return ErrEnding
	}
	defer func() { <-b.slots }()
	if b.life.Err() != nil { // its turn came at the same moment
		return ErrEnding
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	defer func() {
		if p := recover(); p != nil { // what clients upload must not end Berth
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	err = work(ctx)
	switch {
	case err != nil && b.life.Err() != nil:
		return ErrEnding
	case err != nil && ctx.Err() != nil:
		return ErrTooLong
	}
	return err
}

// wake has the reconciler look at a row.
func (b *Builds) wake(row string) {
	ctx, cancel := context.WithTimeout(context.Background(), wakeTime)
	defer cancel()
	if err := b.Manager.Store.Update(ctx, func(tx store.Tx) error { return tx.Wake(row, b.Manager.Now()) }); err != nil {
		b.Manager.Logger.Warn("images were made, and the resource that wants them could not be woken; it looks again by itself", "resource", row, "error", err)
	}
}

// Run ends all builds with ctx, and returns when they have ended. Later ones are not begun. It is called once.
func (b *Builds) Run(ctx context.Context) error {
	<-ctx.Done()
	b.mu.Lock()
	b.ready()
	b.kill()
	b.mu.Unlock()
	b.Wait()
	return nil
}

// Wait returns when nothing is being made.
func (b *Builds) Wait() { b.running.Wait() }

// follow makes next the attempt that follows b, unless b is under way or has come to an end.
func (b *Build[T]) follow(next *Build[T], now time.Time, permanent func(error) bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	next.before, next.since = b.err, b.since
	return b.done && b.err != nil && !permanent(b.err) && now.Sub(b.at) > again
}

func (b *Build[T]) endedBefore(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done && b.at.Before(t)
}

func (b *Build[T]) say(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line)
}

func (b *Build[T]) end(made T, err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made, b.err, b.done, b.at = made, err, true, now
	if err == nil {
		b.since = time.Time{}
	} else if b.since.IsZero() {
		b.since = now
	}
}

// Look says what the present attempt has said, whether it has ended, and in what.
func (b *Build[T]) Look() (lines []string, done bool, made T, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines), b.done, b.made, b.err
}

// Hopeless reports whether attempts in a row have ended in errors for so long that trying on helps nobody. That Berth
// ends is no error of theirs.
func (b *Build[T]) Hopeless() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && !errors.Is(b.err, ErrEnding) && b.at.Sub(b.since) > patience
}

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// rows are a store that notes what is woken.
type rows struct {
	store.Store
	mu    sync.Mutex
	woken []string
}

type tx struct {
	store.Tx
	rows *rows
}

func (r *rows) Update(_ context.Context, fn func(store.Tx) error) error { return fn(tx{rows: r}) }

func (t tx) Wake(key string, _ time.Time) error {
	t.rows.mu.Lock()
	defer t.rows.mu.Unlock()
	t.rows.woken = append(t.rows.woken, key)
	return nil
}

func start(atATime int) (*Builds, *rows, *bytes.Buffer) {
	rows, log := &rows{}, &bytes.Buffer{}
	return &Builds{Manager: &resource.Manager{Store: rows, Now: time.Now, Logger: slog.New(slog.NewTextHandler(log, nil))}, AtATime: atATime}, rows, log
}

var errWrong = errors.New("the request is wrong")

func ensure(ctx context.Context, b *Builds, key string, work func(ctx context.Context, say func(string)) (int, error)) *Build[int] {
	return Ensure(ctx, b, key, "row of "+key, func(err error) bool { return errors.Is(err, errWrong) }, work)
}

// end ends builds as the end of Berth does.
func end(t *testing.T, b *Builds) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// What is made is there for later passes, which the end of a build wakes.
func TestBuild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, rows, _ := start(1)
		type who struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), who{}, "somebody"))
		times := 0
		work := func(ctx context.Context, say func(string)) (int, error) {
			times++
			say("Begun.")
			time.Sleep(time.Minute)
			say("Ended.")
			if ctx.Value(who{}) != "somebody" {
				t.Error("it lacks the values of the pass that began it")
			}
			return 7, ctx.Err()
		}
		got := ensure(ctx, b, "a", work)
		synctest.Wait()
		cancel() // the pass ends long before the build
		if lines, done, _, _ := got.Look(); done || !slices.Equal(lines, []string{"Begun."}) {
			t.Errorf("under way it is done: %v, and says %q", done, lines)
		}
		if again := ensure(t.Context(), b, "a", work); again != got {
			t.Error("another pass began another build")
		}
		b.Wait()
		lines, done, made, err := ensure(t.Context(), b, "a", work).Look()
		if !done || made != 7 || err != nil || len(lines) != 2 || times != 1 || !slices.Equal(rows.woken, []string{"row of a"}) {
			t.Errorf("done: %v, made %d, error %v, said %q, begun %d times, woken %q", done, made, err, lines, times, rows.woken)
		}
	})
}

// However many want images, of whatever kind, a few are made at a time.
func TestAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := start(2)
		var mu sync.Mutex
		now, most, ended := 0, 0, 0
		work := func() {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Minute)
			mu.Lock()
			defer mu.Unlock()
			now--
			ended++
		}
		for i := range 4 {
			ensure(t.Context(), b, fmt.Sprint(i), func(context.Context, func(string)) (int, error) { work(); return 0, nil })
			Ensure(t.Context(), b, fmt.Sprint("other ", i), "row", func(error) bool { return true }, func(context.Context, func(string)) (string, error) { work(); return "", nil })
		}
		b.Wait()
		if most != 2 || ended != 8 {
			t.Errorf("at most %d ran at a time, and %d ended", most, ended)
		}
	})
}

// An attempt that ended in an error that may pass is followed by another one, after a pause, and told of once. In the end
// it is hopeless.
func TestAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, log := start(1)
		times, fails := 0, errors.New("the registry is away")
		work := func(context.Context, func(string)) (int, error) {
			times++
			return times, fails
		}
		look := func(after time.Duration) *Build[int] {
			time.Sleep(after)
			ensure(t.Context(), b, "a", work)
			b.Wait()
			return ensure(t.Context(), b, "a", work)
		}
		if got := look(0); times != 1 || got.Hopeless() {
			t.Errorf("at first: %d times, hopeless %v", times, got.Hopeless())
		}
		if look(4 * time.Second); times != 1 {
			t.Errorf("after 4 seconds it was begun %d times", times)
		}
		if got := look(2 * time.Second); times != 2 || got.Hopeless() {
			t.Errorf("after 6 seconds: %d times, hopeless %v", times, got.Hopeless())
		}
		if got := look(2 * time.Minute); times != 3 || !got.Hopeless() {
			t.Errorf("after 2 minutes: %d times, hopeless %v", times, got.Hopeless())
		}
		if n := strings.Count(log.String(), "the registry is away"); n != 1 {
			t.Errorf("the log says it %d times: %s", n, log)
		}
		fails = nil
		if got := look(10 * time.Second); got.Hopeless() {
			t.Error("what was made is hopeless")
		}
		if look(time.Minute); times != 4 {
			t.Errorf("what was made was begun again: %d times", times)
		}
		fails = errWrong
		for range 3 {
			time.Sleep(time.Minute)
			ensure(t.Context(), b, "wrong", work)
			b.Wait()
		}
		if times != 5 {
			t.Errorf("what is wrong was begun %d times", times-4)
		}
	})
}

// What has ended is forgotten after a while, so that memory does not grow with what was ever made.
func TestForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := start(4)
		quick := func(context.Context, func(string)) (int, error) { return 0, nil }
		slow := func(context.Context, func(string)) (int, error) { time.Sleep(kept + 2*time.Minute); return 0, nil }
		for i := range 50 {
			ensure(t.Context(), b, fmt.Sprint(i), quick)
		}
		ensure(t.Context(), b, "slow", slow)
		time.Sleep(kept)
		ensure(t.Context(), b, "next", quick)
		if len(b.byKey) != 52 {
			t.Errorf("after %v %d builds are known", kept, len(b.byKey))
		}
		time.Sleep(time.Minute)
		ensure(t.Context(), b, "next", quick)
		if len(b.byKey) != 2 {
			t.Errorf("a minute later %d builds are known, want what is under way and the latest", len(b.byKey))
		}
		b.Wait()
	})
}

// Builds end with Berth, which waits for them: those under way and those whose turn has not come. Later ones do not begin.
func TestEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := start(1)
		begun, ended := 0, 0
		work := func(ctx context.Context, _ func(string)) (int, error) {
			begun++
			<-ctx.Done()
			time.Sleep(time.Second) // for the processes to end
			ended++
			return 0, fmt.Errorf("the registry: %w", ctx.Err())
		}
		ensure(t.Context(), b, "a", func(context.Context, func(string)) (int, error) { return 0, errors.New("it failed before") })
		time.Sleep(2 * patience)
		first, second := ensure(t.Context(), b, "a", work), ensure(t.Context(), b, "b", work)
		synctest.Wait()
		asked := time.Now()
		end(t, b)
		if took := time.Since(asked); took > time.Second {
			t.Errorf("they ended after %v", took)
		}
		if begun != 1 || ended != 1 {
			t.Errorf("when Berth ends %d have begun and %d ended", begun, ended)
		}
		for _, got := range []*Build[int]{first, second, ensure(t.Context(), b, "c", work)} {
			if _, done, _, err := got.Look(); !done || !errors.Is(err, ErrEnding) || got.Hopeless() {
				t.Errorf("done: %v, %v, hopeless: %v", done, err, got.Hopeless())
			}
		}
		time.Sleep(time.Hour)
		if begun != 1 {
			t.Errorf("%d have begun", begun)
		}
	})
}

// One that takes too long is cut off, and one that panics ends nothing but itself. Neither keeps its turn.
func TestLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := start(1)
		long := ensure(t.Context(), b, "long", func(ctx context.Context, _ func(string)) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		b.Wait()
		if _, _, _, err := long.Look(); !errors.Is(err, ErrTooLong) {
			t.Errorf("one that never ends ended in %v", err)
		}
		panics := ensure(t.Context(), b, "panics", func(context.Context, func(string)) (int, error) { panic("a bad archive") })
		b.Wait()
		if _, done, _, err := panics.Look(); !done || err == nil || !strings.Contains(err.Error(), "a bad archive") {
			t.Errorf("one that panics: done %v, %v", done, err)
		}
		fine := ensure(t.Context(), b, "fine", func(context.Context, func(string)) (int, error) { return 1, nil })
		b.Wait()
		if _, _, made, err := fine.Look(); made != 1 || err != nil {
			t.Errorf("after these: %d, %v", made, err)
		}
	})
}

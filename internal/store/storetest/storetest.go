// Package storetest holds the rules of the store's contract as one suite, which every
// implementation passes, and a wrapper that makes a store fail on purpose.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// at is a moment; the contract has no clock of its own.
var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// Run holds an implementation against the contract. open gives an empty store that is
// closed when the test ends.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, rule := range map[string]func(*testing.T, store.Store){
		"CreateAndRead":                 createAndRead,
		"CreateOfExistingFails":         createExisting,
		"PutSpecAndPutStatusAreApart":   specAndStatus,
		"StaleWritesAreRefused":         stale,
		"FailedUpdateHasNoEffect":       failedUpdate,
		"PanicInUpdateHasNoEffect":      panicInUpdate,
		"UpdatesAreSerialisable":        serialisable,
		"OneFailureDoesNotSpoilOthers":  independent,
		"ListsPageInKeyOrder":           paging,
		"UnderMatchesWholeSegments":     under,
		"QueriesCombine":                queries,
		"RemoveTakesWhatBelongsToIt":    remove,
		"OperationsOutliveResources":    operations,
		"LeasedWorkIsNotGivenTwice":     leasedOnce,
		"LeaseRunsOut":                  leaseRunsOut,
		"WakeWhileLeasedComesAgain":     wakeWhileLeased,
		"EarlierWakeWins":               earlierWake,
		"SettlingALostLeaseIsStale":     lostLease,
		"NextDueSeesFreeAndLeasedWork":  nextDue,
		"WakeAllMakesEverythingDue":     wakeAll,
		"WokenIsSignalled":              woken,
		"ClaimsAreUnique":               claims,
		"SecretsAndValuesRoundTrip":     secrets,
		"LargeDocumentsAndOddKeysFit":   oddities,
		"CancelledCallsReturn":          cancelled,
		"ReturnedValuesAreTheCallers":   callersOwn,
		"ViewSeesOneSnapshot":           snapshot,
		"ConcurrentReadersAndWritersDo": concurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule(t, open(t))
		})
	}
}

func resource(key string) *store.Resource {
	by := store.Stamp{At: at, By: "someone", Kind: "User"}
	return &store.Resource{
		Key: strings.ToLower(key), ID: key, Type: "a.b/t", Parent: "/p", Subscription: "s", Group: "g", Location: "westeurope",
		Spec: []byte(`{"a":1}`), Status: []byte(`{}`), Conditions: []byte(`{}`), State: "Creating", Generation: 1, OperationID: "op", Created: by, Modified: by,
	}
}

func update(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t *testing.T, s store.Store, fn func(store.ReadTx) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func create(t *testing.T, s store.Store, keys ...string) {
	t.Helper()
	update(t, s, func(tx store.Tx) error {
		for _, k := range keys {
			if err := tx.Create(resource(k)); err != nil {
				return err
			}
		}
		return nil
	})
}

func read(t *testing.T, s store.Store, key string) *store.Resource {
	t.Helper()
	var r *store.Resource
	view(t, s, func(tx store.ReadTx) (err error) { r, err = tx.Resource(key); return err })
	return r
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error %v, want %v", got, want)
	}
}

func createAndRead(t *testing.T, s store.Store) {
	want := resource("/X")
	deleted := at.Add(time.Hour)
	want.DeletedAt = &deleted
	update(t, s, func(tx store.Tx) error { return tx.Create(want) })
	got := read(t, s, "/x")
	want.Version = 1
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v, want\n%+v", got, want)
	}
	err := s.View(context.Background(), func(tx store.ReadTx) error { _, err := tx.Resource("/y"); return err })
	wantErr(t, err, store.ErrNotFound)
}

func createExisting(t *testing.T, s store.Store) {
	create(t, s, "/x")
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.Create(resource("/x")) }), store.ErrExists)
}

func specAndStatus(t *testing.T, s store.Store) {
	create(t, s, "/x")
	spec, status := read(t, s, "/x"), read(t, s, "/x")
	spec.Spec, spec.Status, spec.Generation = []byte(`{"a":2}`), []byte(`{"not":"mine"}`), 2
	update(t, s, func(tx store.Tx) error { return tx.PutSpec(spec) })
	status.Version = spec.Version
	status.Spec, status.Status, status.State = []byte(`{"not":"mine"}`), []byte(`{"b":1}`), "Succeeded"
	update(t, s, func(tx store.Tx) error { return tx.PutStatus(status) })
	got := read(t, s, "/x")
	if string(got.Spec) != `{"a":2}` || string(got.Status) != `{"b":1}` || got.State != "Succeeded" || got.Generation != 2 || got.Version != 3 {
		t.Errorf("got %+v: each write must keep the other's fields", got)
	}
}

func stale(t *testing.T, s store.Store) {
	create(t, s, "/x")
	a, b := read(t, s, "/x"), read(t, s, "/x")
	update(t, s, func(tx store.Tx) error { return tx.PutStatus(a) })
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.PutSpec(b) }), store.ErrStale)
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.PutStatus(b) }), store.ErrStale)
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.PutStatus(resource("/y")) }), store.ErrNotFound)
}

var errOwn = errors.New("the caller's own error")

func failedUpdate(t *testing.T, s store.Store) {
	err := s.Update(context.Background(), func(tx store.Tx) error {
		if err := tx.Create(resource("/x")); err != nil {
			return err
		}
		return errOwn
	})
	wantErr(t, err, errOwn)
	wantErr(t, s.View(context.Background(), func(tx store.ReadTx) error { _, err := tx.Resource("/x"); return err }), store.ErrNotFound)
}

func panicInUpdate(t *testing.T, s store.Store) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the caller does not see its panic")
			}
		}()
		_ = s.Update(context.Background(), func(tx store.Tx) error {
			_ = tx.Create(resource("/x"))
			panic("crash")
		})
	}()
	wantErr(t, s.View(context.Background(), func(tx store.ReadTx) error { _, err := tx.Resource("/x"); return err }), store.ErrNotFound)
	create(t, s, "/y") // and the store goes on
}

func serialisable(t *testing.T, s store.Store) {
	const workers, each = 8, 25
	update(t, s, func(tx store.Tx) error { return tx.PutValue("b", "n", []byte{}) })
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := s.Update(context.Background(), func(tx store.Tx) error {
					v, err := tx.Value("b", "n")
					if err != nil {
						return err
					}
					return tx.PutValue("b", "n", append(v, 'x'))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	view(t, s, func(tx store.ReadTx) error {
		v, err := tx.Value("b", "n")
		if len(v) != workers*each {
			t.Errorf("%d of %d increments are left", len(v), workers*each)
		}
		return err
	})
}

func independent(t *testing.T, s store.Store) {
	const n = 40
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			err := s.Update(context.Background(), func(tx store.Tx) error {
				if err := tx.Create(resource(fmt.Sprintf("/r%02d", i))); err != nil {
					return err
				}
				if i%2 == 1 {
					return errOwn
				}
				return nil
			})
			if i%2 == 1 {
				wantErr(t, err, errOwn)
			} else if err != nil {
				t.Errorf("Update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	view(t, s, func(tx store.ReadTx) error {
		count, err := tx.Count(store.Query{})
		if count != n/2 {
			t.Errorf("%d resources, want %d", count, n/2)
		}
		return err
	})
}

func keysOf(t *testing.T, s store.Store, q store.Query) (keys []string, next string) {
	t.Helper()
	view(t, s, func(tx store.ReadTx) error {
		page, n, err := tx.Resources(q)
		keys, next = nil, n
		for _, r := range page {
			keys = append(keys, r.Key)
		}
		return err
	})
	return keys, next
}

func paging(t *testing.T, s store.Store) {
	create(t, s, "/c", "/a", "/e", "/b", "/d")
	var got []string
	q := store.Query{Limit: 2}
	for {
		keys, next := keysOf(t, s, q)
		got = append(got, keys...)
		if next == "" {
			break
		}
		q.After = next
	}
	if want := []string{"/a", "/b", "/c", "/d", "/e"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, next := keysOf(t, s, store.Query{Limit: 5}); next != "" {
		t.Errorf("a page that is exactly full has a next one: %q", next)
	}
}

func under(t *testing.T, s store.Store) {
	create(t, s, "/s/x", "/s/x/a", "/s/x/a/b", "/s/xy", "/s/xy/a", "/s/x-/a")
	if got, _ := keysOf(t, s, store.Query{Under: "/s/x"}); !reflect.DeepEqual(got, []string{"/s/x/a", "/s/x/a/b"}) {
		t.Errorf("under /s/x: %v", got)
	}
}

func queries(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		for i, change := range []func(*store.Resource){
			func(*store.Resource) {}, func(r *store.Resource) { r.Type = "a.b/u" }, func(r *store.Resource) { r.Subscription = "s2" }, func(r *store.Resource) { r.Group = "g2" },
			func(r *store.Resource) { r.Location = "eastus" }, func(r *store.Resource) { r.State = "Failed" }, func(r *store.Resource) { r.Parent = "/q" },
		} {
			r := resource(fmt.Sprintf("/%d", i))
			change(r)
			if err := tx.Create(r); err != nil {
				return err
			}
		}
		return nil
	})
	all := store.Query{Type: "a.b/t", Parent: "/p", Subscription: "s", Group: "g", Location: "westeurope", States: []string{"Creating", "Updating"}}
	if got, _ := keysOf(t, s, all); !reflect.DeepEqual(got, []string{"/0"}) {
		t.Errorf("all conditions: %v, want /0 alone", got)
	}
	view(t, s, func(tx store.ReadTx) error {
		n, err := tx.Count(store.Query{Type: "a.b/t"})
		if n != 6 {
			t.Errorf("count of the type: %d, want 6", n)
		}
		return err
	})
}

func remove(t *testing.T, s store.Store) {
	create(t, s, "/x")
	update(t, s, func(tx store.Tx) error {
		return errors.Join(tx.PutHandle("/x", store.Handle{Provider: "p", Data: []byte("h")}), tx.PutSecret("/x", "n", []byte("v")), tx.Claim("name", "/x"), tx.Wake("/x", at),
			tx.PutOperation(&store.Operation{ID: "op", ResourceKey: "/x"}))
	})
	update(t, s, func(tx store.Tx) error { return errors.Join(tx.Remove("/x"), tx.Remove("/never-there")) })
	view(t, s, func(tx store.ReadTx) error {
		_, err := tx.Handle("/x")
		wantErr(t, err, store.ErrNotFound)
		_, err = tx.Secret("/x", "n")
		wantErr(t, err, store.ErrNotFound)
		if owner, err := tx.ClaimOwner("name"); owner != "" || err != nil {
			t.Errorf("the claim is left with %q (%v)", owner, err)
		}
		_, err = tx.Operation("op")
		return err
	})
	if w, err := s.LeaseDue(context.Background(), at, "o", time.Minute, 10); err != nil || len(w) != 0 {
		t.Errorf("the wake-up is left: %v %v", w, err)
	}
}

func operations(t *testing.T, s store.Store) {
	end := at
	want := &store.Operation{ID: "op", ResourceKey: "/x", ResourceID: "/X", Kind: "create", Status: "Failed", Error: []byte(`{"code":"c"}`), Start: at, Deadline: at, End: &end, By: store.Stamp{At: at}}
	update(t, s, func(tx store.Tx) error { return tx.PutOperation(want) })
	view(t, s, func(tx store.ReadTx) error {
		got, err := tx.Operation("op")
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		_, err2 := tx.Operation("none")
		wantErr(t, err2, store.ErrNotFound)
		return err
	})
	update(t, s, func(tx store.Tx) error {
		if n, err := tx.RemoveOperations(at); n != 0 || err != nil {
			t.Errorf("removed %d operations that ended at the bound (%v)", n, err)
		}
		n, err := tx.RemoveOperations(at.Add(time.Second))
		if n != 1 {
			t.Errorf("removed %d operations, want 1", n)
		}
		return err
	})
}

func lease(t *testing.T, s store.Store, now time.Time, limit int) []store.Wakeup {
	t.Helper()
	w, err := s.LeaseDue(context.Background(), now, "owner", time.Minute, limit)
	if err != nil {
		t.Fatalf("LeaseDue: %v", err)
	}
	return w
}

func wake(t *testing.T, s store.Store, key string, when time.Time) {
	t.Helper()
	update(t, s, func(tx store.Tx) error { return tx.Wake(key, when) })
}

func settle(t *testing.T, s store.Store, w store.Wakeup) {
	t.Helper()
	update(t, s, func(tx store.Tx) error { return tx.Settle(w) })
}

func leasedOnce(t *testing.T, s store.Store) {
	for _, k := range []string{"/a", "/b", "/c"} {
		wake(t, s, k, at)
	}
	if w := lease(t, s, at.Add(-time.Second), 10); len(w) != 0 {
		t.Errorf("leased before it was due: %v", w)
	}
	first, second := lease(t, s, at, 2), lease(t, s, at, 10)
	if len(first) != 2 || len(second) != 1 {
		t.Fatalf("leased %d, then %d; want 2, then 1", len(first), len(second))
	}
	settle(t, s, first[0])
	if w := lease(t, s, at, 10); len(w) != 0 {
		t.Errorf("settled work came again: %v", w)
	}
}

func leaseRunsOut(t *testing.T, s store.Store) {
	wake(t, s, "/a", at)
	lost := lease(t, s, at, 1)
	if w := lease(t, s, at.Add(59*time.Second), 1); len(w) != 0 {
		t.Fatalf("a held lease was given away: %v", w)
	}
	again := lease(t, s, at.Add(time.Minute), 1)
	if len(again) != 1 || again[0].Token == lost[0].Token {
		t.Fatalf("a lease that ran out is not given anew: %v", again)
	}
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.Settle(lost[0]) }), store.ErrStale)
	settle(t, s, again[0])
}

func wakeWhileLeased(t *testing.T, s store.Store) {
	wake(t, s, "/a", at)
	w := lease(t, s, at, 1)
	wake(t, s, "/a", at.Add(3*time.Second))
	wake(t, s, "/a", at.Add(2*time.Second))
	if got := lease(t, s, at.Add(4*time.Second), 1); len(got) != 0 {
		t.Fatalf("a wake-up disturbed a held lease: %v", got)
	}
	settle(t, s, w[0])
	if got := lease(t, s, at.Add(time.Second), 1); len(got) != 0 {
		t.Errorf("due too early: %v", got)
	}
	if got := lease(t, s, at.Add(2*time.Second), 1); len(got) != 1 {
		t.Error("the wake-up during the lease is lost")
	}
}

func earlierWake(t *testing.T, s store.Store) {
	wake(t, s, "/a", at.Add(time.Hour))
	wake(t, s, "/a", at)
	wake(t, s, "/a", at.Add(time.Hour))
	if got := lease(t, s, at, 1); len(got) != 1 {
		t.Error("the earlier wake-up did not win")
	}
}

func lostLease(t *testing.T, s store.Store) {
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.Settle(store.Wakeup{Key: "/a", Token: "none"}) }), store.ErrStale)
}

func nextDue(t *testing.T, s store.Store) {
	next := func() (time.Time, bool) {
		n, ok, err := s.NextDue(context.Background(), at)
		if err != nil {
			t.Fatal(err)
		}
		return n, ok
	}
	if _, ok := next(); ok {
		t.Error("an empty store has something due")
	}
	wake(t, s, "/a", at)
	wake(t, s, "/b", at.Add(time.Hour))
	if n, ok := next(); !ok || !n.Equal(at) {
		t.Errorf("next due %v, want %v", n, at)
	}
	lease(t, s, at, 1)
	if n, _ := next(); !n.Equal(at.Add(time.Minute)) {
		t.Errorf("next due %v, want the end of the lease", n)
	}
}

func wakeAll(t *testing.T, s store.Store) {
	wake(t, s, "/leased", at)
	held := lease(t, s, at, 1)
	wake(t, s, "/later", at.Add(time.Hour))
	back := at.Add(-24 * time.Hour)
	if got := lease(t, s, back, 9); len(got) != 0 {
		t.Fatalf("%v are due a day early", got)
	}
	if err := s.WakeAll(context.Background(), back, time.Second); err != nil {
		t.Fatal(err)
	}
	if got := lease(t, s, back, 9); len(got) != 1 || got[0].Key != "/later" {
		t.Errorf("due are %v; want what waited, and not what is held", got)
	}
	if got := lease(t, s, back.Add(time.Second), 9); len(got) != 1 || got[0].Key != "/leased" {
		t.Errorf("a second later due are %v; want what was held", got)
	}
	wantErr(t, s.Update(context.Background(), func(tx store.Tx) error { return tx.Settle(held[0]) }), store.ErrStale)
}

func woken(t *testing.T, s store.Store) {
	wake(t, s, "/a", at)
	select {
	case <-s.Woken():
	case <-time.After(5 * time.Second):
		t.Error("Woken was not signalled")
	}
}

func claims(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error { return errors.Join(tx.Claim("n", "/a"), tx.Claim("n", "/a")) })
	err := s.Update(context.Background(), func(tx store.Tx) error { return tx.Claim("n", "/b") })
	var taken *store.ClaimedError
	if !errors.As(err, &taken) || taken.Owner != "/a" || taken.Name != "n" {
		t.Errorf("a second claim: %v", err)
	}
	update(t, s, func(tx store.Tx) error { return tx.Unclaim("n", "/b") }) // not the holder: no effect
	view(t, s, func(tx store.ReadTx) error {
		owner, err := tx.ClaimOwner("n")
		if owner != "/a" {
			t.Errorf("owner %q", owner)
		}
		return err
	})
	update(t, s, func(tx store.Tx) error { return errors.Join(tx.Unclaim("n", "/a"), tx.Claim("n", "/b")) })
}

func secrets(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		return errors.Join(tx.PutSecret("/a", "k", []byte("one")), tx.PutValue("b", "2", []byte("two")), tx.PutValue("b", "1", []byte{}), tx.PutValue("other", "1", []byte("x")))
	})
	view(t, s, func(tx store.ReadTx) error {
		v, err := tx.Secret("/a", "k")
		if string(v) != "one" {
			t.Errorf("secret %q", v)
		}
		var got []string
		err2 := tx.Values("b", func(k string, v []byte) error { got = append(got, k+"="+string(v)); return nil })
		if !reflect.DeepEqual(got, []string{"1=", "2=two"}) {
			t.Errorf("values %q", got)
		}
		return errors.Join(err, err2)
	})
	update(t, s, func(tx store.Tx) error { return errors.Join(tx.PutSecret("/a", "k", nil), tx.PutValue("b", "2", nil)) })
	view(t, s, func(tx store.ReadTx) error {
		_, err := tx.Secret("/a", "k")
		wantErr(t, err, store.ErrNotFound)
		_, err = tx.Value("b", "2")
		wantErr(t, err, store.ErrNotFound)
		return nil
	})
}

func oddities(t *testing.T, s store.Store) {
	for _, key := range []string{"/ünï/cødé", "/50%", "/a_b", "/it's", "/" + strings.Repeat("k", 2000)} {
		r := resource(key)
		r.Spec = bytes.Repeat([]byte("x"), 1<<20)
		update(t, s, func(tx store.Tx) error { return tx.Create(r) })
		if got := read(t, s, r.Key); len(got.Spec) != 1<<20 || got.ID != key {
			t.Errorf("%.20s does not round-trip", key)
		}
	}
	if got, _ := keysOf(t, s, store.Query{Under: "/a"}); len(got) != 0 {
		t.Errorf("_ is no wildcard: %v", got)
	}
}

func cancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantErr(t, s.Update(ctx, func(store.Tx) error { return nil }), context.Canceled)
	wantErr(t, s.View(ctx, func(store.ReadTx) error { return nil }), context.Canceled)
	create(t, s, "/x") // and the store goes on
}

func callersOwn(t *testing.T, s store.Store) {
	create(t, s, "/x")
	a := read(t, s, "/x")
	copy(a.Spec, "#######")
	if b := read(t, s, "/x"); string(b.Spec) != `{"a":1}` {
		t.Errorf("a caller's change reached the store: %s", b.Spec)
	}
}

func snapshot(t *testing.T, s store.Store) {
	create(t, s, "/x")
	view(t, s, func(tx store.ReadTx) error {
		before, err := tx.Resource("/x")
		if err != nil {
			return err
		}
		update(t, s, func(tx store.Tx) error { r := *before; r.State = "Succeeded"; return tx.PutStatus(&r) })
		after, err := tx.Resource("/x")
		if after.State != before.State {
			t.Errorf("the view changed from %s to %s", before.State, after.State)
		}
		return err
	})
}

func concurrent(t *testing.T, s store.Store) {
	create(t, s, "/x")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				_ = read(t, s, "/x")
			}
		})
		wg.Go(func() {
			for range 50 {
				err := s.Update(context.Background(), func(tx store.Tx) error {
					r, err := tx.Resource("/x")
					if err != nil {
						return err
					}
					return tx.PutStatus(r)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if r := read(t, s, "/x"); r.Version != 201 {
		t.Errorf("version %d, want 201", r.Version)
	}
}

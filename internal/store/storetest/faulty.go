package storetest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// Mode says how a Faulty store fails.
type Mode int

// How a call fails. A write that fails after its commit is what a crash between the commit
// and the answer looks like.
const (
	FailBefore Mode = iota
	FailAfter
)

// ErrInjected is what the failing call returns.
var ErrInjected = errors.New("this call of the store was made to fail")

// Faulty is a store whose k-th Update or LeaseDue fails. OnFault, if set, is called then: a
// crash sweep ends the server there.
type Faulty struct {
	store.Store
	At      int64 // the call that fails, counted from 1; 0 means none
	Mode    Mode
	OnFault func()

	calls atomic.Int64
}

// Calls is how many calls were counted.
func (f *Faulty) Calls() int64 { return f.calls.Load() }

func (f *Faulty) hit() bool { return f.calls.Add(1) == f.At }

func (f *Faulty) fault() error {
	if f.OnFault != nil {
		f.OnFault()
	}
	return ErrInjected
}

// Update implements store.Store.
func (f *Faulty) Update(ctx context.Context, fn func(store.Tx) error) error {
	hit := f.hit()
	if hit && f.Mode == FailBefore {
		return f.fault()
	}
	err := f.Store.Update(ctx, fn)
	if hit && err == nil {
		return f.fault()
	}
	return err
}

// LeaseDue implements store.Store.
func (f *Faulty) LeaseDue(ctx context.Context, now time.Time, owner string, ttl time.Duration, limit int) ([]store.Wakeup, error) {
	// Only calls that find something count: how often a loop looks in vain is a matter of chance.
	if _, ok, err := f.Store.NextDue(ctx, now); err != nil || !ok {
		return nil, err
	}
	w, err := f.Store.LeaseDue(ctx, now, owner, ttl, limit)
	if err == nil && len(w) > 0 && f.hit() {
		return nil, f.fault() // the lease is lost; it has to run out
	}
	return w, err
}

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

// Fault is what goes wrong once.
type Fault struct {
	In      int64 // the call that fails, counted from 1 from now on
	Mode    Mode
	OnFault func() // if set, called then: a crash sweep ends the server there
}

// Faulty is a store of which one Update or LeaseDue fails, once it is armed.
type Faulty struct {
	store.Store

	calls atomic.Int64
	fault atomic.Pointer[armed]
}

type armed struct {
	Fault
	at int64
}

// Arm makes a later call fail.
func (f *Faulty) Arm(fault Fault) {
	f.fault.Store(&armed{fault, f.calls.Load() + fault.In})
}

// Calls is how many calls were counted.
func (f *Faulty) Calls() int64 { return f.calls.Load() }

// hit counts a call and returns the fault that it meets, nil for none.
func (f *Faulty) hit() *armed {
	n := f.calls.Add(1)
	if a := f.fault.Load(); a != nil && a.at == n {
		return a
	}
	return nil
}

func (a *armed) strike() error {
	if a.OnFault != nil {
		a.OnFault()
	}
	return ErrInjected
}

// Update implements store.Store.
func (f *Faulty) Update(ctx context.Context, fn func(store.Tx) error) error {
	hit := f.hit()
	if hit != nil && hit.Mode == FailBefore {
		return hit.strike()
	}
	err := f.Store.Update(ctx, fn)
	if hit != nil && err == nil {
		return hit.strike()
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
	if err == nil && len(w) > 0 {
		if hit := f.hit(); hit != nil {
			return nil, hit.strike() // the lease is lost; it has to run out
		}
	}
	return w, err
}

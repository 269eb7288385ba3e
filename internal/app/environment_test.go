package app_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/store"
)

// fullable is a store whose disk can be full.
type fullable struct {
	store.Store
	full atomic.Bool
}

func (f *fullable) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f.full.Load() {
		return store.ErrDisk
	}
	return f.Store.Update(ctx, fn)
}

func TestFullDisk_IsNamedAndPasses(t *testing.T) {
	t.Parallel()
	var disk *fullable
	s := start(t, func(c *app.Config) {
		c.WrapStore = func(s store.Store) store.Store { disk = &fullable{Store: s}; return disk }
	})
	ws := s.workspace()
	disk.full.Store(true)
	r := s.want(503, "PUT", ws+"/computes/made?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	if r.at("error.code") != "ServiceUnavailable" || !strings.Contains(r.raw, "disk") || !strings.Contains(r.raw, "Nothing was changed") || r.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", r.header, r.raw)
	}
	s.want(200, "GET", ws+v, "") // reading goes on
	disk.full.Store(false)
	s.want(404, "GET", ws+"/computes/made?api-version=2020-02-02", "")
	// What is under way when the disk fills goes on when it is free again.
	r = s.want(201, "PUT", ws+"/computes/made?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	disk.full.Store(true)
	time.AfterFunc(300*time.Millisecond, func() { disk.full.Store(false) })
	if op := s.settle(r); op.at("status") != "Succeeded" {
		t.Error(op.raw)
	}
}

// A clock that jumps ahead ends what is under way with a named reason, and one that goes back
// stops nothing.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	world := fake.NewWorld()
	t.Cleanup(world.Close)
	provider := fake.New(world, fake.Options{}) // the clusters' own clocks do not jump
	provider.SetFaults(fake.Faults{ReadyAfter: 300 * time.Millisecond})
	s := start(t, func(c *app.Config) {
		c.UseProvider = provider
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	ws := s.workspace()
	compute := ws + "/computes/made?api-version=2020-02-02"
	create := func() reply {
		return s.do("PUT", compute, `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	}
	r := create()
	ahead.Store(int64(10 * time.Minute)) // beyond every deadline, and within what certificates allow for
	if op := s.settle(r); op.at("status") == "Failed" && !strings.Contains(op.raw, "waiting for the ") {
		t.Errorf("after ten minutes: %s", op.raw)
	}
	if op := s.settle(create()); op.at("status") != "Succeeded" {
		t.Errorf("again: %s", op.raw)
	}
	r = s.want(201, "PUT", ws+"/computes/later?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	ahead.Store(0)
	if op := s.settle(r); op.at("status") != "Succeeded" {
		t.Errorf("with the clock ten minutes back: %s", op.raw)
	}
}

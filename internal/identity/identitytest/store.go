// Package identitytest has what tests of the sign-in service, and of its clients, share.
package identitytest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/berthdev/berth/internal/store"
)

// Values is a store in memory that holds small values and nothing else. Updates are all
// or nothing.
type Values struct {
	store.Store
	mu   sync.RWMutex
	data map[string]map[string][]byte
}

// View implements store.Store.
func (v *Values) View(_ context.Context, fn func(store.ReadTx) error) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return fn(tx{data: v.data})
}

// Update implements store.Store.
func (v *Values) Update(_ context.Context, fn func(store.Tx) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := map[string]map[string][]byte{}
	for bucket, values := range v.data {
		next[bucket] = maps.Clone(values)
	}
	if err := fn(tx{data: next}); err != nil {
		return err
	}
	v.data = next
	return nil
}

// All returns every value by bucket and key.
func (v *Values) All() map[string]map[string][]byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.data
}

type tx struct {
	store.Tx
	data map[string]map[string][]byte
}

func (t tx) Value(bucket, key string) ([]byte, error) {
	if value, ok := t.data[bucket][key]; ok {
		return value, nil
	}
	return nil, store.ErrNotFound
}

func (t tx) Values(bucket string, fn func(string, []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(t.data[bucket])) {
		if err := fn(key, t.data[bucket][key]); err != nil {
			return err
		}
	}
	return nil
}

func (t tx) PutValue(bucket, key string, value []byte) error {
	if value == nil {
		delete(t.data[bucket], key)
		return nil
	}
	if t.data[bucket] == nil {
		t.data[bucket] = map[string][]byte{}
	}
	t.data[bucket][key] = value
	return nil
}

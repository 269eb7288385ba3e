package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// LeaseDue takes wake-ups that are due and free, or whose lease ran out.
func (s *Store) LeaseDue(ctx context.Context, now time.Time, owner string, ttl time.Duration, limit int) ([]store.Wakeup, error) {
	// Most calls find nothing: look on a snapshot before going through the writer.
	if at, ok, err := s.NextDue(ctx, now); err != nil || !ok || at.After(now) {
		return nil, err
	}
	var out []store.Wakeup
	err := s.submit(ctx, func(t *tx) error {
		out = nil
		err := t.each(func(row scanner) error {
			w := store.Wakeup{Token: rand.Text()}
			err := row.Scan(&w.Key)
			out = append(out, w)
			return err
		}, "SELECT key FROM wakeups WHERE due_at <= ? AND (token IS NULL OR lease_until <= ?) ORDER BY due_at LIMIT ?", nanos(now), nanos(now), limit)
		if err != nil {
			return err
		}
		for _, w := range out {
			if err := t.c.exec(ctx, "UPDATE wakeups SET token = ?, lease_owner = ?, lease_until = ? WHERE key = ?", w.Token, owner, nanos(now.Add(ttl)), w.Key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// WakeAll brings wake-ups that lie ahead to now.
func (s *Store) WakeAll(ctx context.Context, now time.Time, ttl time.Duration) error {
	return s.submit(ctx, func(t *tx) error {
		t.woke = true
		return t.c.exec(ctx, "UPDATE wakeups SET due_at = min(due_at, ?1), again_at = min(again_at, ?1), lease_until = min(lease_until, ?2)", nanos(now), nanos(now.Add(ttl)))
	})
}

// NextDue is when the next wake-up becomes due, or a lease runs out.
func (s *Store) NextDue(ctx context.Context, _ time.Time) (at time.Time, ok bool, err error) {
	err = s.View(ctx, func(r store.ReadTx) error {
		var n sql.NullInt64
		err := r.(*tx).one([]any{&n}, "SELECT min(CASE WHEN token IS NULL THEN due_at ELSE max(due_at, lease_until) END) FROM wakeups")
		at, ok = fromNanos(n.Int64), n.Valid
		return err
	})
	return at, ok, err
}

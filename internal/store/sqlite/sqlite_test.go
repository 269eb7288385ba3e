package sqlite

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/seal"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func config(t *testing.T, dir string) Config {
	t.Helper()
	keys, err := seal.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	return Config{Path: filepath.Join(dir, "db"), Sealer: keys}
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, config(t, t.TempDir())) })
}

func TestReopen_KeepsAndFreesLeases(t *testing.T) {
	t.Parallel()
	cfg := config(t, t.TempDir())
	s := open(t, cfg)
	now := time.Now()
	err := s.Update(context.Background(), func(tx store.Tx) error {
		if err := tx.PutValue("b", "k", []byte("a very secret value")); err != nil {
			return err
		}
		return tx.Wake("/x", now)
	})
	if err != nil {
		t.Fatal(err)
	}
	if w, err := s.LeaseDue(context.Background(), now, "o", time.Hour, 1); err != nil || len(w) != 1 {
		t.Fatalf("LeaseDue: %v %v", w, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg)
	if w, err := again.LeaseDue(context.Background(), now, "o", time.Hour, 1); err != nil || len(w) != 1 {
		t.Errorf("the lease of a process that is gone is not free: %v %v", w, err)
	}
	for _, name := range []string{cfg.Path, cfg.Path + "-wal"} {
		data, err := os.ReadFile(name)
		if err == nil && bytes.Contains(data, []byte("very secret")) {
			t.Errorf("%s holds the value in plain", name)
		}
		if fi, err := os.Stat(name); err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, fi.Mode())
		}
	}
}

func TestOpen_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		prepare    func(t *testing.T, cfg Config)
	}{
		{"in use", "in use by another berth", func(t *testing.T, cfg Config) { open(t, cfg) }},
		{"from a newer version", "newer Berth", func(t *testing.T, cfg Config) {
			s := open(t, cfg)
			if err := s.Update(context.Background(), func(tx store.Tx) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"not a database", "not a database", func(t *testing.T, cfg Config) {
			if err := os.WriteFile(cfg.Path, bytes.Repeat([]byte("garbage "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, t.TempDir())
			tt.prepare(t, cfg)
			s, err := Open(context.Background(), cfg)
			if err == nil {
				_ = s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

package sqlite

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/store"
)

// A full disk refuses writes by name and loses nothing; when there is room again, writing
// goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a small file system needs root")
		}
		t.Skip("a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, config(t, dir))
	put := func(name string) error {
		return s.Update(context.Background(), func(tx store.Tx) error { return tx.PutValue("b", name, bytes.Repeat([]byte("x"), 4096)) })
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	var err error
	for range 100 {
		if err = put("second"); err != nil {
			break
		}
	}
	if !errors.Is(err, store.ErrDisk) {
		t.Fatalf("a full disk is reported as %v", err)
	}
	if err := s.View(context.Background(), func(tx store.ReadTx) error { _, err := tx.Value("b", "first"); return err }); err != nil {
		t.Errorf("what was written before cannot be read: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := put("third"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

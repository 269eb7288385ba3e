package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSealOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "key")
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v %v; want mode 0600", fi.Mode(), err)
	}
	sealed, err := k.Seal("row", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Fatal("the sealed value contains the secret")
	}
	again, err := Open(path) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	if v, err := again.Open("row", sealed); err != nil || string(v) != "secret" {
		t.Fatalf("Open = %q, %v", v, err)
	}
	if _, err := k.Open("other row", sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("a value moved to another row opens: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open("row", bad); !errors.Is(err, ErrOpen) {
			t.Fatalf("a value changed at byte %d opens: %v", i, err)
		}
	}
	if _, err := k.Open("row", sealed[:10]); !errors.Is(err, ErrOpen) {
		t.Errorf("a cut value opens: %v", err)
	}
	other, err := Open(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open("row", sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("another key opens the value: %v", err)
	}
}

func TestOpen_DamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Fatal("a damaged key file is accepted")
	}
}

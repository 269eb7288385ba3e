package app_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/app"
)

// run starts a Berth, stops it as soon as it is ready, and is how that ended.
func run(t *testing.T, cfg app.Config) error {
	t.Helper()
	cfg.Provider, cfg.Logger = "fake", slog.New(slog.NewTextHandler(testWriter{t}, nil))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	return app.Run(ctx, cfg, func(app.Info) { stop() })
}

// The bucket that was chosen once is the one of later starts: what is registered names files in it. One that cannot be
// used is found out at the start.
func TestBucketIsRemembered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	home, bucket := app.Home(filepath.Join(dir, "home")), filepath.Join(dir, "bucket")
	if err := run(t, app.Config{Home: home, Blobs: "file://" + bucket}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bucket); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(bucket); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bucket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t, app.Config{Home: home})
	if err == nil || !strings.HasPrefix(err.Error(), "--blobs: the folder "+bucket+" cannot keep blobs") {
		t.Errorf("the next start, whose bucket is a file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(string(home), "blobs")); !os.IsNotExist(err) {
		t.Errorf("blobs are in the home, too: %v", err)
	}
	if err := run(t, app.Config{Home: home, Blobs: "file://" + filepath.Join(dir, "another")}); err != nil {
		t.Errorf("with another bucket: %v", err)
	}
}

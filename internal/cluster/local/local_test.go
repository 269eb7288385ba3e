package local_test

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/clustertest"
	"github.com/berthdev/berth/internal/cluster/local"
)

func TestSmoke(t *testing.T) {
	dir := os.Getenv("SMOKE_DIR")
	p := local.New(local.Config{StateDir: dir, LibexecDir: os.Getenv("BERTH_LIBEXEC"), Installation: "smoke", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now})
	spec := clustertest.NewSpec("smoke")
	start := time.Now()
	if os.Getenv("SMOKE") == "delete" {
		for {
			done, err := p.Delete(t.Context(), spec.ID, cluster.Handle{})
			t.Log(done, err, time.Since(start))
			if done || err != nil { return }
		}
	}
	if os.Getenv("SMOKE") == "3" { spec.Pools[0].Count = 3 }
	if os.Getenv("SMOKE") == "2" { spec.Pools[0].Count = 2 }
	var h cluster.Handle
	for range 20 {
		var o cluster.Observation
		var err error
		h, o, err = p.Ensure(t.Context(), spec, h)
		t.Log(time.Since(start), o, err)
		if o.Ready { break }
		if err != nil { t.Fatal(err) }
	}
	kc, err := p.Credentials(t.Context(), spec.ID, h, cluster.RoleUser)
	t.Log(err)
	os.WriteFile(dir+"/kubeconfig", kc.Data, 0o600)
}

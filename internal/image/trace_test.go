package image

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/tracing"
	"github.com/berthdev/berth/internal/tracing/tracingtest"
)

// What is built belongs to the trace of who asked for it; what was there already is told as such.
func TestTrace(t *testing.T) {
	c := tracingtest.New(t)
	tracer, err := tracing.Start(t.Context(), "berth", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tracer.Stop)
	r := startRegistry(t, t.TempDir())
	ctx, span := tracer.Begin(t.Context(), "a deployment")
	for range 2 {
		if _, err := r.Files(ctx, "berth/models", "model:1", []File{text("model.pkl", "pickled")}); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{Registry: r}
	definition := `{"name":"e","docker":{"baseImage":"cr.example/x:1:2","baseImageRegistry":{"username":"u","password":"BASESECRET"}},"python":{"userManagedDependencies":true}}`
	if _, err := b.Environment(ctx, json.RawMessage(definition), func(string) {}); err == nil {
		t.Fatal("an environment was made on a base that has no name")
	}
	span.End()
	tracer.Stop()
	const want = `internal a deployment
  internal make image repository=berth/models
    internal make layer
    internal push image repository=berth/models
  internal make image repository=berth/models existed=true
  internal make environment type=EnvironmentNotSupported failed
    internal find base type=EnvironmentNotSupported failed
`
	got := tracingtest.Tree(c.Spans(), "berth.image.repository", "berth.image.existed", "error.type")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if strings.Contains(c.Text(), "BASESECRET") || strings.Contains(c.Text(), testPassword) {
		t.Errorf("a password was told: %s", c.Text())
	}
}

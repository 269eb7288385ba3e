package route_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/route"
)

// good is a route that breaks no rule, changed as a test needs it.
func good(changes ...func(*route.Route)) *route.Route {
	r := &route.Route{
		Service: "iris", ID: "id", Generation: 7, Auth: route.Auth{Mode: route.AuthKey, Keys: []string{route.KeySum("key")}},
		Versions: []route.Version{{
			Name: "v1", Workload: "iris-v1", Percent: 60, Default: true, MaxConcurrent: 1, QueueWait: route.DefaultQueueWait, Timeout: route.DefaultTimeout,
			MaxBody: route.MaxBody, Scale: route.Scale{Auto: true, Min: 1, Max: 10, Utilization: 70, Refresh: time.Second},
		}},
	}
	for _, change := range changes {
		change(r)
	}
	return r
}

func TestSecretRoundTrip(t *testing.T) {
	t.Parallel()
	want := good()
	s, err := want.Secret()
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "route-iris" || s.Type != route.SecretType || s.Labels[route.ServiceLabel] != "iris" {
		t.Errorf("the secret is %s of type %s with labels %v", s.Name, s.Type, s.Labels)
	}
	got, err := route.FromSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" || !got.Equal(want) {
		t.Errorf("it came back differently (-want +got):\n%s", d)
	}
	if got.Equal(good(func(r *route.Route) { r.Generation++ })) {
		t.Error("another generation is taken for the same")
	}
	for data, want := range map[string]string{"": "has no route.json", "secret text": "holds no route", `{"service": "UPPER"}`: "no service name"} {
		if s.Data = nil; data != "" {
			s.Data = map[string][]byte{"route.json": []byte(data)}
		}
		if _, err := route.FromSecret(s); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret text") {
			t.Errorf("%q: %v, want %q", data, err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	version := func(change func(*route.Version)) func(*route.Route) {
		return func(r *route.Route) { change(&r.Versions[0]) }
	}
	more := func(n int) func(*route.Route) {
		return func(r *route.Route) {
			for i := range n {
				v := r.Versions[0]
				v.Name, v.Default, v.Percent = strings.Repeat("x", i+1), false, 0
				r.Versions = append(r.Versions, v)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*route.Route)
		want   string // "": no rule is broken
	}{
		{"good", func(*route.Route) {}, ""},
		{"no versions yet", func(r *route.Route) { r.Versions = nil }, ""},
		{"no waiting", version(func(v *route.Version) { v.QueueWait = 0 }), ""},
		{"may sleep", version(func(v *route.Version) { v.Scale.Min = 0 }), ""},
		{"six versions", more(5), ""},
		{"seven versions", more(6), "at most 6"},
		{"name", func(r *route.Route) { r.Service = "Iris_1" }, "no service name"},
		{"no auth mode", func(r *route.Route) { r.Auth.Mode = "" }, "unknown authentication"},
		{"keys without keys", func(r *route.Route) { r.Auth.Keys = nil }, "without keys"},
		{"tokens without keys", func(r *route.Route) { r.Auth = route.Auth{Mode: route.AuthToken, Audience: "a"} }, "without keys or audience"},
		{"no workload", version(func(v *route.Version) { v.Workload = "" }), "no workload"},
		{"negative share", version(func(v *route.Version) { v.Percent = -1 }), "percentages"},
		{"too much", func(r *route.Route) { more(1)(r); r.Versions[1].Percent = 41 }, "percentages"},
		{"twice", func(r *route.Route) { r.Versions = append(r.Versions, r.Versions[0]); r.Versions[1].Percent = 0 }, "two versions"},
		{"no concurrency", version(func(v *route.Version) { v.MaxConcurrent = 0 }), "limit"},
		{"no time", version(func(v *route.Version) { v.Timeout = 0 }), "limit"},
		{"no body", version(func(v *route.Version) { v.MaxBody = 0 }), "limit"},
		{"least above most", version(func(v *route.Version) { v.Scale.Min = 11 }), "scaling bounds"},
		{"none at most", version(func(v *route.Version) { v.Scale.Min, v.Scale.Max = 0, 0 }), "scaling bounds"},
		{"use of nothing", version(func(v *route.Version) { v.Scale.Utilization = 0 }), "scaling bounds"},
		{"no period", version(func(v *route.Version) { v.Scale.Refresh = 0 }), "scaling bounds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := good(tt.change).Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestHasKey(t *testing.T) {
	t.Parallel()
	a := route.Auth{Keys: []string{route.KeySum("one"), route.KeySum("two")}}
	for key, want := range map[string]bool{"one": true, "two": true, "": false, "three": false, route.KeySum("one"): false} {
		if a.HasKey(key) != want {
			t.Errorf("HasKey(%q) is %v", key, !want)
		}
	}
}

func TestDefaultVersion(t *testing.T) {
	t.Parallel()
	if v := (&route.Route{}).DefaultVersion(); v != nil {
		t.Errorf("of nothing: %v", v)
	}
	r := &route.Route{Versions: []route.Version{{Name: "a"}, {Name: "b"}}}
	if v := r.DefaultVersion(); v.Name != "a" {
		t.Errorf("without a flag: %s, want the first", v.Name)
	}
	r.Versions[1].Default = true
	if v := r.DefaultVersion(); v.Name != "b" {
		t.Errorf("got %s, want b", v.Name)
	}
}

package containerservice

import (
	"testing"
	"time"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/pki"
)

func TestIssued_SameUntilSomethingChanges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	authority := func() *pki.Authority {
		a, err := pki.NewAuthority("c", now)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	one, other := authority(), authority()
	issue := func(a *pki.Authority, endpoint string, at time.Time) cluster.Kubeconfig {
		k, err := a.Credentials("c", endpoint, cluster.RoleUser, at)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	const here, there = "https://127.0.0.1:1", "https://127.0.0.1:2"
	to := issuedFor{"c", cluster.RoleUser}
	for name, c := range map[string]struct {
		to   issuedFor
		next cluster.Kubeconfig
		same bool
	}{
		"at once":           {to, issue(one, here, now), true},
		"29 days later":     {to, issue(one, here, now.Add(29*24*time.Hour)), true},
		"30 days later":     {to, issue(one, here, now.Add(30*24*time.Hour)), false},
		"a clock set back":  {to, issue(one, here, now.Add(-30*24*time.Hour)), false},
		"another address":   {to, issue(one, there, now), false},
		"another authority": {to, issue(other, here, now), false},
		"another role":      {issuedFor{"c", cluster.RoleAdmin}, issue(one, here, now), false},
		"another cluster":   {issuedFor{"d", cluster.RoleUser}, issue(one, here, now), false},
	} {
		var i issued
		first := i.same(to, issue(one, here, now))
		next := i.same(c.to, c.next)
		if got := string(next.Data) == string(first.Data); got != c.same {
			t.Errorf("%s: the same kubeconfig is %v, want %v", name, got, c.same)
		}
		if again := i.same(c.to, issue(one, here, now)); c.to == to && c.same && string(again.Data) != string(first.Data) {
			t.Errorf("%s: a third one differs", name)
		}
		i.forget(to)
		if again := i.same(to, issue(one, here, now)); string(again.Data) == string(first.Data) {
			t.Errorf("%s: it was not forgotten", name)
		}
	}
}

package cluster_test

import (
	"errors"
	"regexp"
	"testing"

	"github.com/berthdev/berth/internal/cluster"
)

func TestNodeName(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^aks-pool1-\d{8}-vmss00001A$`)
	name := cluster.NodeName("/subscriptions/a", "pool1", 46)
	if !shape.MatchString(name) {
		t.Errorf("the node is called %s, want %s", name, shape)
	}
	if other := cluster.NodeName("/subscriptions/b", "pool1", 46); other == name {
		t.Errorf("nodes of two clusters are both called %s", name)
	}
}

func TestNodeLabelsWinOverThePools(t *testing.T) {
	t.Parallel()
	pool := cluster.Pool{Name: "p", Mode: "System", Labels: map[string]string{"agentpool": "forged", "own": "yes"}}
	got := cluster.NodeLabels("", pool)
	if got["agentpool"] != "p" || got["own"] != "yes" || got["kubernetes.azure.com/mode"] != "system" {
		t.Errorf("labels %v", got)
	}
	if _, exists := got["topology.kubernetes.io/region"]; exists || pool.Labels["agentpool"] != "forged" {
		t.Errorf("labels %v of a cluster without a location, pool's %v", got, pool.Labels)
	}
}

func TestResolveVersion(t *testing.T) {
	t.Parallel()
	offered := []string{"1.36.4", "1.37.1", "1.37.2"}
	for wanted, want := range map[string]string{"": "1.37.2", "1.37": "1.37.2", "1.36": "1.36.4", "1.37.1": "1.37.1", "1.3": "", "1.17": "", "1.37.": ""} {
		got, err := cluster.ResolveVersion(offered, wanted)
		if got != want {
			t.Errorf("version %q resolves to %q, want %q", wanted, got, want)
		}
		var e *cluster.Error
		if want == "" && (!errors.As(err, &e) || e.Kind != cluster.KindUser) {
			t.Errorf("version %q: error %v, want KindUser", wanted, err)
		}
	}
}

package containerservice

import (
	"context"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// upgradeProfile says what a cluster can be upgraded to: nothing, upgrading in place is
// not supported.
func (s *Service) upgradeProfile(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	if !strings.EqualFold(c.ID.Name(), "default") {
		return nil, armerr.New(armerr.CodeResourceNotFound, "There is no upgrade profile '%s', only 'default'.", c.ID.Name())
	}
	a := &resource.Answer{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, doc, err := readCluster(tx, c.Manager, c.ID.Parent())
		if err != nil {
			return err
		}
		profile := func(name string) map[string]any {
			return map[string]any{"name": name, "kubernetesVersion": doc.Properties.KubernetesVersion, "osType": "Linux", "upgrades": nil}
		}
		pools := []any{}
		for _, p := range doc.Properties.AgentPoolProfiles {
			pools = append(pools, profile(p.Name))
		}
		a.Body = map[string]any{
			"id": lowerGroups(row.ID) + "/upgradeProfiles/default", "name": "default", "type": ManagedClusters + "/upgradeProfiles",
			"properties": map[string]any{"controlPlaneProfile": profile("master"), "agentPoolProfiles": pools},
		}
		return nil
	})
	return a, err
}

func (s *Service) poolVersions(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	a := &resource.Answer{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, doc, err := readCluster(tx, c.Manager, c.ID)
		if err != nil {
			return err
		}
		a.Body = map[string]any{
			"id": lowerGroups(row.ID) + "/availableAgentPoolVersions", "name": "default", "type": ManagedClusters + "/availableAgentpoolVersions",
			"properties": map[string]any{"agentPoolVersions": []any{map[string]any{"default": true, "kubernetesVersion": doc.Properties.KubernetesVersion, "isPreview": nil}}},
		}
		return nil
	})
	return a, err
}

// kubernetesVersions lists what the provider offers, grouped by minor version.
func (s *Service) kubernetesVersions(_ context.Context, _ *resource.Call) (*resource.Answer, error) {
	versions := s.Provider.Capabilities().KubernetesVersions
	minors := []map[string]any{}
	byMinor := map[string]map[string]any{}
	for _, v := range versions {
		minor := v[:strings.LastIndexByte(v, '.')]
		m := byMinor[minor]
		if m == nil {
			m = map[string]any{
				"version": minor, "isDefault": strings.HasPrefix(versions[len(versions)-1], minor+"."), "isPreview": nil,
				"capabilities": map[string]any{"supportPlan": []string{"KubernetesOfficial"}}, "patchVersions": map[string]any{},
			}
			byMinor[minor] = m
			minors = append(minors, m)
		}
		m["patchVersions"].(map[string]any)[v] = map[string]any{"upgrades": []string{}}
	}
	return &resource.Answer{Body: map[string]any{"values": minors}}, nil
}

func (s *Service) orchestrators(_ context.Context, c *resource.Call) (*resource.Answer, error) {
	versions := s.Provider.Capabilities().KubernetesVersions
	list := []any{}
	for i, v := range versions {
		list = append(list, map[string]any{"orchestratorType": "Kubernetes", "orchestratorVersion": v, "default": i == len(versions)-1, "upgrades": nil})
	}
	return &resource.Answer{Body: map[string]any{
		"id": c.ID.String() + "/orchestrators", "name": "default", "type": Namespace + "/locations/orchestrators",
		"properties": map[string]any{"orchestrators": list},
	}}, nil
}

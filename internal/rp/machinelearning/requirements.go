package machinelearning

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/cluster"
)

// VersionRange is a range of Kubernetes minor versions, both ends included (A4).
type VersionRange struct{ MinMinor, MaxMinor int }

func (r VersionRange) String() string { return fmt.Sprintf("1.%d - 1.%d", r.MinMinor, r.MaxMinor) }

// contains reports whether a version such as 1.37.2 lies in the range.
func (r VersionRange) contains(version string) bool {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(strings.TrimRight(minor, "+"))
	return err == nil && major == "1" && n >= r.MinMinor && n <= r.MaxMinor
}

// unmet lists every condition for attaching that a cluster does not meet (A4, R3).
func (s *Service) unmet(purpose, version string, nodes []cluster.Node) []*armerr.Error {
	const at = "properties.resourceId"
	var out []*armerr.Error
	if !s.Kubernetes.contains(version) {
		e := armerr.New(armerr.CodeKubernetesVersion, "%s: Specified kubernetes version %s is not supported. Supported versions are between [%s]. Upgrade the cluster, or change the supported range in Berth's settings.", at, version, s.Kubernetes)
		e.Target = at
		out = append(out, e)
	}
	// Deployments use the first pool only (R5), but the rule counts what the cluster has.
	cores, ready, perNode := 0, 0, 0
	for _, n := range nodes {
		if n.Ready {
			c := int(n.MilliCPU / 1000)
			cores += c
			perNode = max(perNode, c)
			ready++
		}
	}
	if ready < len(nodes) || ready == 0 {
		e := armerr.New(armerr.CodeNotEnoughNodes, "%s: %d of the cluster's %d nodes are Ready. Find out why with kubectl get nodes, then attach again.", at, ready, len(nodes))
		e.Target = at
		out = append(out, e)
	}
	if cores < minCores(purpose) && ready > 0 {
		out = append(out, notEnoughCores(purpose, cores, fmt.Sprintf("%d Ready nodes", ready), perNode, at))
	}
	return out
}

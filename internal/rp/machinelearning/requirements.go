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

// MarshalText writes the form that settings have, such as 1.34-1.38.
func (r VersionRange) MarshalText() ([]byte, error) {
	return []byte(strings.ReplaceAll(r.String(), " ", "")), nil
}

// UnmarshalText reads that form; one version alone is a range of its own.
func (r *VersionRange) UnmarshalText(text []byte) error {
	from, to, isRange := strings.Cut(string(text), "-")
	if !isRange {
		to = from
	}
	minor := func(s string) int {
		n, err := strconv.ParseUint(strings.TrimPrefix(s, "1."), 10, 16)
		if err != nil || !strings.HasPrefix(s, "1.") {
			return -1
		}
		return int(n)
	}
	out := VersionRange{minor(from), minor(to)}
	if out.MinMinor < 0 || out.MaxMinor < out.MinMinor {
		return fmt.Errorf("%q is not a range of Kubernetes versions such as 1.34-1.38", text)
	}
	*r = out
	return nil
}

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
		e := armerr.New(armerr.CodeKubernetesVersion, "%s: Specified kubernetes version %s is not supported. Supported versions are between [%s]. Upgrade the cluster, or start Berth with a wider range: berth up --kubernetes-versions.", at, version, s.Kubernetes)
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

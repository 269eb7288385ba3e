package cluster

import (
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"
)

// DefaultMaxPods is the kubelet's limit of a pool that names none.
const DefaultMaxPods = 110

// Node labels that AKS sets and that Azure ML's clients and charts select on.
const (
	LabelAgentPool      = "agentpool"
	LabelAKSAgentPool   = "kubernetes.azure.com/agentpool"
	LabelAKSMode        = "kubernetes.azure.com/mode"
	LabelAKSRole        = "kubernetes.azure.com/role"
	LabelInstanceType   = "node.kubernetes.io/instance-type"
	LabelTopologyRegion = "topology.kubernetes.io/region"
)

// RoleAgent is the role of every node: control planes have none.
const RoleAgent = "agent"

// NodeName names the n-th node of a pool the way AKS does:
// aks-<pool>-<8 digits>-vmss<n in base 36, 6 places>. The digits follow from the
// cluster's ID, so a name is known before the node exists.
func NodeName(clusterID, pool string, n int) string {
	h := fnv.New32a()
	h.Write([]byte(clusterID))
	base36 := strings.ToUpper(strconv.FormatInt(int64(n), 36))
	return fmt.Sprintf("aks-%s-%08d-vmss%06s", pool, h.Sum32()%100_000_000, base36)
}

// NodeLabels returns the labels of a pool's nodes: Berth's own over the pool's extra ones.
func NodeLabels(location string, p Pool) map[string]string {
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelAgentPool] = p.Name
	labels[LabelAKSAgentPool] = p.Name
	labels[LabelAKSMode] = strings.ToLower(p.Mode)
	labels[LabelAKSRole] = RoleAgent
	labels[LabelInstanceType] = p.VMSize.Name
	if location != "" {
		labels[LabelTopologyRegion] = location
	}
	return labels
}

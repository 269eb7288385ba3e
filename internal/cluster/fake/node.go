package fake

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berthdev/berth/internal/cluster"
)

const gpuResource = "nvidia.com/gpu"

func nodeObject(name string, spec cluster.Spec, pool cluster.Pool, size cluster.VMSize, version string) object {
	labels := map[string]any{"kubernetes.io/hostname": name}
	for key, value := range cluster.NodeLabels(spec.Location, pool) {
		labels[key] = value
	}
	maxPods := pool.MaxPods
	if maxPods == 0 {
		maxPods = cluster.DefaultMaxPods
	}
	resources := map[string]any{
		"cpu":    strconv.Itoa(size.VCPUs),
		"memory": fmt.Sprintf("%dMi", size.MemoryMiB),
		"pods":   strconv.Itoa(maxPods),
	}
	if size.GPUs > 0 {
		resources[gpuResource] = strconv.Itoa(size.GPUs)
	}
	taints := []any{}
	for _, taint := range pool.Taints {
		keyValue, effect, _ := strings.Cut(taint, ":")
		key, value, _ := strings.Cut(keyValue, "=")
		taints = append(taints, map[string]any{"key": key, "value": value, "effect": effect})
	}
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata":   map[string]any{"name": name, "labels": labels},
		"spec":       map[string]any{"taints": taints},
		"status": map[string]any{
			"capacity":    resources,
			"allocatable": resources,
			"conditions":  []any{map[string]any{"type": "Ready", "status": "True", "reason": "KubeletReady"}},
			"nodeInfo":    map[string]any{"kubeletVersion": "v" + version},
		},
	}
}

// nodeOf reads a Node object back, so that an Observation says what the API says.
func nodeOf(o object, ready bool) cluster.Node {
	version, _, _ := unstructured.NestedString(o, "status", "nodeInfo", "kubeletVersion")
	labels := labelsOf(o)
	return cluster.Node{
		Name:      nameOf(o),
		Pool:      labels[cluster.LabelAgentPool],
		VMSize:    labels[cluster.LabelInstanceType],
		Ready:     ready,
		MilliCPU:  capacity(o, "cpu").MilliValue(),
		MemoryMiB: capacity(o, "memory").Value() >> 20,
		GPUs:      int(capacity(o, gpuResource).Value()),
		Version:   strings.TrimPrefix(version, "v"),
	}
}

func capacity(o object, name string) *resource.Quantity {
	text, _, _ := unstructured.NestedString(o, "status", "capacity", name)
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return new(resource.Quantity)
	}
	return &quantity
}

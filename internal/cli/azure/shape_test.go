package azure

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

type object = map[string]any

func TestFlatAKS(t *testing.T) {
	t.Parallel()
	const id = "/subscriptions/s/resourcegroups/rg/providers/Microsoft.ContainerService/managedClusters/c"
	got, err := flatAKS([]any{object{
		"id": id, "type": "Microsoft.ContainerService/managedClusters", "tags": object{"costCENTRE": "1"},
		"properties": object{
			"type": "VirtualMachineScaleSets", "enableRBAC": true, "azurePortalFQDN": "f", "effectiveOutboundIPs": nil,
			"agentPoolProfiles": []any{object{"osDiskSizeGB": 1.0, "podIPAllocationMode": "m", "vmSize": "v", "nodeLabels": object{"GPU": "y"}}},
		},
	}}, nil)
	want := []any{object{
		"id": id, "type": "Microsoft.ContainerService/managedClusters", "tags": object{"costCENTRE": "1"}, "resourceGroup": "rg",
		"typePropertiesType": "VirtualMachineScaleSets", "enableRbac": true, "azurePortalFqdn": "f", "effectiveOutboundIPs": nil,
		"agentPoolProfiles": []any{object{"osDiskSizeGb": 1.0, "podIpAllocationMode": "m", "vmSize": "v", "nodeLabels": object{"GPU": "y"}}},
	}}
	if diff := cmp.Diff(any(want), got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

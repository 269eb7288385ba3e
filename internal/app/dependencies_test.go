package app_test

import (
	"net/http"
	"strings"
	"testing"
)

// What Terraform reads and writes besides the resources that a workspace refers to (P1).
func TestDependencies_Parts(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	rg := s.sub() + "/resourceGroups/rg"
	s.want(201, "PUT", rg+v, `{"location":"westeurope"}`)
	storage, vault, insights := rg+"/providers/Microsoft.Storage/storageAccounts/parts", rg+"/providers/Microsoft.KeyVault/vaults/parts", rg+"/providers/Microsoft.Insights/components/parts"
	const st, kv, bill = "?api-version=2025-08-01", "?api-version=2026-02-01", "?api-version=2015-05-01"
	s.want(200, "PUT", storage+st, `{"location":"westeurope","kind":"StorageV2","sku":{"name":"Standard_LRS"}}`)
	s.want(200, "PUT", vault+kv, `{"location":"westeurope","properties":{"sku":{"family":"A","name":"standard"},"accessPolicies":[]}}`)
	s.want(200, "PUT", insights+"?api-version=2020-02-02", `{"location":"westeurope","kind":"web","properties":{"Application_Type":"web"}}`)

	for _, service := range []string{"blobServices", "fileServices"} {
		if r := s.want(200, "GET", storage+"/"+service+"/default"+st, ""); r.at("properties.cors") == nil || r.at("name") != "default" {
			t.Error(r.raw)
		}
		s.want(404, "GET", storage+"/"+service+"/other"+st, "")
		s.want(404, "GET", strings.Replace(storage, "parts", "absent", 1)+"/"+service+"/default"+st, "")
		s.want(405, "PUT", storage+"/"+service+"/default"+st, `{"properties":{"deleteRetentionPolicy":{"enabled":true,"days":7}}}`)
	}
	if r := s.want(409, "POST", storage+"/listKeys"+st, ""); !strings.Contains(r.raw, "no keys") {
		t.Error(r.raw)
	}

	billing := insights + "/currentBillingFeatures"
	if r := s.want(200, "GET", billing+bill, ""); r.at("DataVolumeCap.Cap") != float64(100) {
		t.Error(r.raw)
	}
	s.want(200, "PUT", billing+bill, `{"CurrentBillingFeatures":["Basic"],"DataVolumeCap":{"Cap":100,"StopSendNotificationWhenHitCap":false}}`)
	for _, cap := range []string{`{"Cap":5}`, `{"StopSendNotificationWhenHitCap":true}`} {
		if r := s.want(400, "PUT", billing+bill, `{"DataVolumeCap":`+cap+`}`); r.at("error.code") != "NotSupported" || !strings.Contains(r.raw, "DataVolumeCap") {
			t.Error(r.raw)
		}
	}
	s.want(400, "PUT", billing+bill, `[]`)
	s.want(404, "GET", strings.Replace(billing, "parts", "absent", 1)+bill, "")

	keyVault := s.sub() + "/providers/Microsoft.KeyVault"
	deleted := keyVault + "/locations/westeurope/deletedVaults/parts"
	s.want(404, "GET", deleted+kv, "")
	s.want(409, "POST", deleted+"/purge"+kv, "") // it lives
	s.want(200, "DELETE", vault+kv, "")
	s.want(404, "GET", deleted+kv, "")
	if op := s.settle(s.want(202, "POST", deleted+"/purge"+kv, "")); op.at("status") != "Succeeded" {
		t.Error(op.raw)
	}
	s.want(200, "GET", keyVault+"/deletedVaults"+kv, "")
}

// Berth answers for the hosts of its own vaults and accounts, and for nobody else's.
func TestDependencies_Hosts(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	rg := s.sub() + "/resourceGroups/rg"
	s.want(201, "PUT", rg+v, `{"location":"westeurope"}`)
	status := func(host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.info.URL+"/certificates/contacts?api-version=7.4", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		r, err := s.roundTrip(req, false)
		if err != nil {
			t.Fatal(err)
		}
		return r.status, r.raw
	}
	hosts := []string{"mine.vault.azure.net", "MINE.blob.core.windows.net", "mine.table.core.windows.net"}
	for _, host := range append(hosts, "mine.azurecr.io", "a.mine.vault.azure.net") {
		if code, body := status(host); code != http.StatusMisdirectedRequest {
			t.Errorf("%s before it exists: %d %s", host, code, body)
		}
	}
	s.want(200, "PUT", rg+"/providers/Microsoft.Storage/storageAccounts/mine?api-version=2025-08-01", `{"location":"westeurope","kind":"StorageV2","sku":{"name":"Standard_LRS"}}`)
	s.want(200, "PUT", rg+"/providers/Microsoft.KeyVault/vaults/Mine?api-version=2026-02-01", `{"location":"westeurope","properties":{"sku":{"family":"A","name":"standard"},"accessPolicies":[]}}`)
	for _, host := range hosts {
		want, says := 404, "/certificates/contacts is not offered"
		if strings.Contains(host, ".blob.") { // it has blobs, for those who show a signature
			want, says = 403, "<Code>AuthorizationFailure</Code>"
		}
		if code, body := status(host); code != want || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", host, code, body)
		}
	}
	for _, host := range []string{"mine.azurecr.io", "a.mine.vault.azure.net", "other.vault.azure.net"} {
		if code, body := status(host); code != http.StatusMisdirectedRequest {
			t.Errorf("%s: %d %s", host, code, body)
		}
	}
}

// An add-on that is off asks for nothing; one that is on is refused by name (R5).
func TestManagedCluster_AddonsAreOff(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.want(201, "PUT", s.sub()+"/resourceGroups/rg"+v, `{"location":"westeurope"}`)
	aks := s.sub() + "/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks?api-version=2025-10-01"
	const body = `{"location":"westeurope","properties":{"dnsPrefix":"a","addonProfiles":{"azurepolicy":{"enabled":ENABLED,"config":{"version":"v2"}}},
		"agentPoolProfiles":[{"name":"default","count":1,"vmSize":"Standard_D4s_v3","mode":"System"}]}}`
	if r := s.want(400, "PUT", aks, strings.Replace(body, "ENABLED", "true", 1)); !strings.Contains(r.raw, "properties.addonProfiles.azurepolicy.enabled") {
		t.Error(r.raw)
	}
	s.settle(s.want(201, "PUT", aks, strings.Replace(body, "ENABLED", "false", 1)))
	if r := s.want(200, "GET", aks, ""); r.at("properties.addonProfiles.azurepolicy.enabled") != false {
		t.Error(r.raw)
	}
}

package edge

import (
	"encoding/json"
	"net/http"
	"regexp"
)

// cloud is a cloud's description as ARM's metadata endpoint gives it from 2018 on. The Azure
// CLI, azureml-core and Terraform each read a part of it and insist on that part.
type cloud struct {
	Name           string         `json:"name"`
	Portal         string         `json:"portal"`
	Authentication authentication `json:"authentication"`
	Suffixes       suffixes       `json:"suffixes"`

	ResourceManager         string `json:"resourceManager"`
	Graph                   string `json:"graph"`
	GraphAudience           string `json:"graphAudience"`
	MicrosoftGraph          string `json:"microsoftGraphResourceId"`
	Gallery                 string `json:"gallery"`
	Batch                   string `json:"batch"`
	Media                   string `json:"media"`
	SQLManagement           string `json:"sqlManagement"`
	VMImageAliasDoc         string `json:"vmImageAliasDoc"`
	ActiveDirectoryDataLake string `json:"activeDirectoryDataLake"`
	AppInsights             string `json:"appInsightsResourceId"`
	AppInsightsTelemetry    string `json:"appInsightsTelemetryChannelResourceId"`
	Attestation             string `json:"attestationResourceId"`
	LogAnalytics            string `json:"logAnalyticsResourceId"`
	OSSRDBMS                string `json:"ossrDbmsResourceId"`
	Synapse                 string `json:"synapseAnalyticsResourceId"`
}

type authentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant"`
	IdentityProvider string   `json:"identityProvider"`
}

type suffixes struct {
	ACR          string `json:"acrLoginServer"`
	Attestation  string `json:"attestationEndpoint"`
	DataLakeJobs string `json:"azureDataLakeAnalyticsCatalogAndJob"`
	DataLake     string `json:"azureDataLakeStoreFileSystem"`
	FrontDoor    string `json:"azureFrontDoorEndpointSuffix"`
	KeyVault     string `json:"keyVaultDns"`
	MariaDB      string `json:"mariadbServerEndpoint"`
	ManagedHSM   string `json:"mhsmDns"`
	MySQL        string `json:"mysqlServerEndpoint"`
	PostgreSQL   string `json:"postgresqlServerEndpoint"`
	SQLServer    string `json:"sqlServerHostname"`
	Storage      string `json:"storage"`
	StorageSync  string `json:"storageSyncEndpointSuffix"`
	Synapse      string `json:"synapseAnalytics"`
}

// cloud2015 is what versions before 2018 answer (Azure Stack's shape).
type cloud2015 struct {
	Gallery        string `json:"galleryEndpoint"`
	Graph          string `json:"graphEndpoint"`
	Portal         string `json:"portalEndpoint"`
	Authentication struct {
		LoginEndpoint string   `json:"loginEndpoint"`
		Audiences     []string `json:"audiences"`
	} `json:"authentication"`
}

// azureCloud is the public cloud, for intercepted clients: they go on using its names.
func azureCloud() cloud {
	return cloud{
		Name:   "AzureCloud",
		Portal: "https://portal.azure.com",
		Authentication: authentication{
			LoginEndpoint:    "https://login.microsoftonline.com",
			Audiences:        []string{"https://management.core.windows.net/", "https://management.azure.com/"},
			Tenant:           "common",
			IdentityProvider: "AAD",
		},
		Suffixes: suffixes{
			ACR: "azurecr.io", Attestation: "attest.azure.net", DataLakeJobs: "azuredatalakeanalytics.net",
			DataLake: "azuredatalakestore.net", FrontDoor: "azurefd.net", KeyVault: "vault.azure.net",
			MariaDB: "mariadb.database.azure.com", ManagedHSM: "managedhsm.azure.net", MySQL: "mysql.database.azure.com",
			PostgreSQL: "postgres.database.azure.com", SQLServer: "database.windows.net", Storage: "core.windows.net",
			StorageSync: "afs.azure.net", Synapse: "dev.azuresynapse.net",
		},
		ResourceManager:         "https://management.azure.com/",
		Graph:                   "https://graph.windows.net/",
		GraphAudience:           "https://graph.windows.net/",
		MicrosoftGraph:          "https://graph.microsoft.com/",
		Gallery:                 "https://gallery.azure.com/",
		Batch:                   "https://batch.core.windows.net/",
		Media:                   "https://rest.media.azure.net",
		SQLManagement:           "https://management.core.windows.net:8443/",
		VMImageAliasDoc:         "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/main/arm-compute/quickstart-templates/aliases.json",
		ActiveDirectoryDataLake: "https://datalake.azure.net/",
		AppInsights:             "https://api.applicationinsights.io",
		AppInsightsTelemetry:    "https://dc.applicationinsights.azure.com/v2/track",
		Attestation:             "https://attest.azure.net",
		LogAnalytics:            "https://api.loganalytics.io",
		OSSRDBMS:                "https://ossrdbms-aad.database.windows.net",
		Synapse:                 "https://dev.azuresynapse.net",
	}
}

// ownCloud is the installation as a cloud of its own at base: signing in, resources and
// Graph are its, the rest keeps Azure's names.
func ownCloud(base string) cloud {
	c := azureCloud()
	c.Name = "Berth"
	c.Portal = base
	c.ResourceManager = base + "/"
	c.Authentication.LoginEndpoint = base
	c.Authentication.Audiences = []string{base + "/", "https://management.azure.com/", "https://management.core.windows.net/"}
	c.Graph, c.GraphAudience, c.MicrosoftGraph = base+"/graph/", base+"/graph/", base+"/graph/"
	return c
}

// metadataPath is ARM's metadata endpoint, without the leading slash. It needs no token.
const metadataPath = "metadata/endpoints"

var apiVersion = regexp.MustCompile(`^20\d\d-\d\d-\d\d(-preview)?$`)

// writeMetadata answers in the shape of the api-version: an object until 2018, a list of
// clouds from 2019-05-01, and the one cloud that was asked from 2022-09-01.
func writeMetadata(w http.ResponseWriter, r *http.Request, c cloud) {
	version := r.URL.Query().Get("api-version")
	var body any = c
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "The metadata can only be read.", http.StatusMethodNotAllowed)
		return
	case !apiVersion.MatchString(version):
		http.Error(w, "The api-version query parameter is missing or is not a date such as 2022-09-01.", http.StatusBadRequest)
		return
	case version < "2018":
		old := cloud2015{Gallery: c.Gallery, Graph: c.Graph, Portal: c.Portal}
		old.Authentication.LoginEndpoint, old.Authentication.Audiences = c.Authentication.LoginEndpoint, c.Authentication.Audiences
		body = old
	case version >= "2019" && version < "2022-09-01":
		body = []cloud{c}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(body) // the client is gone; nobody is left to tell
}

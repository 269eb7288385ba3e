// Package machinelearning is the resource provider Microsoft.MachineLearningServices:
// workspaces, and the computes of type AKS that create or attach Kubernetes clusters.
// A compute never touches a cluster provider: a created one owns a managed cluster, an
// attached one refers to one, and both speak to the cluster through its own API.
package machinelearning

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// Namespace is the provider's name in resource IDs.
const Namespace = "Microsoft.MachineLearningServices"

// The provider's types.
const (
	Workspaces = Namespace + "/workspaces"
	Computes   = Workspaces + "/computes"
)

// Versions are the api-versions that known clients send: azureml-core 1.61, the ARM SDKs
// for Go, Python and JavaScript, Terraform, azure-cli and the REST specification's own.
var Versions = []string{
	"2018-03-01-preview", "2018-11-19", "2018-12-01", "2019-05-01", "2019-06-01", "2019-11-01",
	"2020-01-01", "2020-02-02", "2020-03-01", "2020-04-01", "2020-06-01", "2020-08-01", "2020-09-01-preview",
	"2021-01-01", "2021-03-01-preview", "2021-04-01", "2021-07-01", "2022-01-01-preview", "2022-05-01", "2022-10-01", "2022-12-01-preview",
	"2023-04-01", "2023-06-01-preview", "2023-08-01-preview", "2023-10-01", "2024-01-01-preview", "2024-04-01", "2024-07-01-preview", "2024-10-01",
	"2025-01-01-preview", "2025-06-01", "2025-09-01", "2025-12-01",
}

// Workspace is the properties of a workspace.
type Workspace struct {
	ProvisioningState   string `json:"provisioningState,omitempty" arm:"readonly"`
	WorkspaceID         string `json:"workspaceId,omitempty" arm:"readonly"`
	DiscoveryURL        string `json:"discoveryUrl,omitempty" arm:"maxlen=2048"`
	MLFlowTrackingURI   string `json:"mlFlowTrackingUri,omitempty" arm:"readonly"`
	TenantID            string `json:"tenantId,omitempty" arm:"readonly"`
	CreationTime        string `json:"creationTime,omitempty" arm:"readonly"`
	Description         string `json:"description,omitempty"`
	FriendlyName        string `json:"friendlyName,omitempty" arm:"maxlen=256"`
	StorageAccount      string `json:"storageAccount,omitempty" arm:"format=armid,immutable,always"`
	KeyVault            string `json:"keyVault,omitempty" arm:"format=armid,immutable,always"`
	ApplicationInsights string `json:"applicationInsights,omitempty" arm:"format=armid,always"`
	ContainerRegistry   string `json:"containerRegistry,omitempty" arm:"format=armid,always"`
	HBIWorkspace        *bool  `json:"hbiWorkspace,omitempty" arm:"immutable"`
	ImageBuildCompute   string `json:"imageBuildCompute,omitempty" arm:"maxlen=64"`
	PublicNetworkAccess string `json:"publicNetworkAccess,omitempty" arm:"unsupported,default=Enabled"`
	AllowPublicAccess   *bool  `json:"allowPublicAccessWhenBehindVnet,omitempty"`
	V1LegacyMode        *bool  `json:"v1LegacyMode,omitempty"`
	DatastoresAuthMode  string `json:"systemDatastoresAuthMode,omitempty" arm:"unsupported,default=accesskey"`
	EnableDataIsolation *bool  `json:"enableDataIsolation,omitempty"`
	StorageHNSEnabled   *bool  `json:"storageHnsEnabled,omitempty" arm:"readonly"`
	PrivateLinkCount    *int   `json:"privateLinkCount,omitempty" arm:"readonly"`

	// AttachConflict is Berth's own: what a second attachment of one cluster does (A5). refuse, the
	// default, or supersede, which is what the original did.
	AttachConflict string `json:"attachConflict,omitempty" arm:"enum=refuse|supersede"`

	NotebookInfo            json.RawMessage `json:"notebookInfo,omitempty" arm:"readonly"`
	PrivateEndpoints        json.RawMessage `json:"privateEndpointConnections,omitempty" arm:"readonly"`
	ServiceProvisionedGroup string          `json:"serviceProvisionedResourceGroup,omitempty" arm:"readonly"`
	AgentsEndpointURI       string          `json:"agentsEndpointUri,omitempty" arm:"readonly"`
	Features                json.RawMessage `json:"featureStoreSettings,omitempty" arm:"unsupported"`
	Encryption              json.RawMessage `json:"encryption,omitempty" arm:"unsupported"`
	SharedPrivateLinks      json.RawMessage `json:"sharedPrivateLinkResources,omitempty" arm:"unsupported"`
	ManagedResources        json.RawMessage `json:"serviceManagedResourcesSettings,omitempty" arm:"unsupported"`
	PrimaryIdentity         string          `json:"primaryUserAssignedIdentity,omitempty" arm:"unsupported"`
	ManagedNetwork          json.RawMessage `json:"managedNetwork,omitempty" arm:"unsupported"`
	Serverless              json.RawMessage `json:"serverlessComputeSettings,omitempty" arm:"unsupported"`
	HubResourceID           string          `json:"hubResourceId,omitempty" arm:"unsupported"`
	AssociatedWorkspaces    []string        `json:"associatedWorkspaces,omitempty" arm:"unsupported"`
	HubConfig               json.RawMessage `json:"workspaceHubConfig,omitempty" arm:"unsupported"`
	IPAllowlist             []string        `json:"ipAllowlist,omitempty" arm:"unsupported"`
	NetworkACLs             json.RawMessage `json:"networkAcls,omitempty" arm:"unsupported"`
	ProvisionNetworkNow     *bool           `json:"provisionNetworkNow,omitempty" arm:"unsupported"`
	SoftDelete              *bool           `json:"softDeleteEnabled,omitempty" arm:"unsupported"`
	AllowRoleAssignment     *bool           `json:"allowRoleAssignmentOnRG,omitempty"`
	EnableSimplifiedCMK     *bool           `json:"enableSimplifiedCmk,omitempty" arm:"unsupported"`
	EnableSoftwareBOM       *bool           `json:"enableSoftwareBillOfMaterials,omitempty" arm:"unsupported"`
	EnableServiceSideCMK    *bool           `json:"enableServiceSideCMKEncryption,omitempty" arm:"unsupported"`
}

// workspaceName allows the two characters that azureml-core does; the portal asks for three.
var workspaceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{1,32}$`)

func (s *Service) workspaceType() *resource.Type {
	return resource.New(resource.Definition[Workspace]{
		Type: Workspaces, Summary: "A workspace: what computes, models and services belong to.", Versions: Versions, Tracked: true, ETagInBody: "etag",
		OperationsPath: "workspaceOperationsStatus", DeleteOrder: 10, CreateStatus: 200, DeleteDeadline: 20 * time.Minute,
		Names: resource.NameRule{Pattern: workspaceName, Description: "has 2 to 33 letters, digits, dashes and underscores and begins with a letter or digit"},
		Admit: s.admitWorkspace,
		Present: func(p *resource.Presentation[Workspace]) {
			s.presentWorkspace(p)
		},
		Actions: []resource.Action[Workspace]{
			{Name: "listKeys", Summary: "List the keys of what the workspace refers to.", Do: s.workspaceKeys},
			{Name: "resyncKeys", Summary: "Read the keys of what the workspace refers to again.", Do: func(context.Context, *resource.ActionCall[Workspace]) (any, error) {
				// Keys are looked up when they are asked for, so there is nothing to bring up to date.
				// The SDKs know the answers 200 and 202, not the 204 of an action without a body.
				return map[string]any{}, nil
			}},
		},
	})
}

// linked are the resources a workspace refers to, by field.
func linked(w *Workspace) []struct{ field, id, typ string } {
	return []struct{ field, id, typ string }{
		{"storageAccount", w.StorageAccount, "Microsoft.Storage/storageAccounts"},
		{"keyVault", w.KeyVault, "Microsoft.KeyVault/vaults"},
		{"applicationInsights", w.ApplicationInsights, "Microsoft.Insights/components"},
		{"containerRegistry", w.ContainerRegistry, "Microsoft.ContainerRegistry/registries"},
	}
}

func (s *Service) admitWorkspace(_ context.Context, d *resource.Draft[Workspace]) error {
	w := &d.New.Properties
	w.DiscoveryURL = "" // Berth's own; what a client echoes or asks for has no effect
	for i, l := range linked(w) {
		if l.id == "" {
			continue
		}
		id, err := armid.Parse(l.id)
		at := "properties." + l.field
		if err != nil || !strings.EqualFold(id.Type(), l.typ) {
			d.Fail(at, "%q is not the ID of a %s.", l.id, l.typ)
			continue
		}
		if _, err := d.Tx.Resource(id.Key()); err == store.ErrNotFound {
			e := armerr.New(armerr.CodeLinkedResourceNotFound, "%s: the resource '%s' does not exist. Create it first, or leave the field out.", at, l.id)
			e.Target = at
			d.FailWith(e)
			continue
		} else if err != nil {
			return err
		}
		// Whoever may use the workspace uses these through it, so they are only given by those who may do so themselves.
		if d.Old != nil && strings.EqualFold(linked(&d.Old.Properties)[i].id, l.id) {
			continue
		}
		if err := d.Allowed(l.typ+"/write", id); err != nil {
			return err
		}
	}
	if d.New.Kind == "" {
		d.New.Kind = "Default"
	}
	if !strings.EqualFold(d.New.Kind, "Default") {
		d.Fail("kind", "workspaces of kind %q are not supported, only Default. Remove it.", d.New.Kind)
	}
	if d.New.SKU == nil {
		d.New.SKU = &resource.SKU{Name: "Basic", Tier: "Basic"}
	}
	if w.AttachConflict == "" {
		w.AttachConflict = attachRefuse
	}
	if d.New.Identity == nil {
		d.New.Identity = &resource.Identity{Type: "SystemAssigned"}
	}
	return nil
}

// WorkspaceID is a workspace's immutable GUID. A workspace that is deleted and created
// again gets another one.
func WorkspaceID(row *store.Resource) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "workspace:%s:%d", row.Key, row.Created.At.UnixNano())).String()
}

func (s *Service) presentWorkspace(p *resource.Presentation[Workspace]) {
	w := &p.Doc.Properties
	w.WorkspaceID = WorkspaceID(p.Row)
	w.TenantID = s.Tenant
	w.CreationTime = resource.Timestamp(p.Row.Created.At)
	host := s.DataPlane(p.Row.Location)
	w.DiscoveryURL = host + "/discovery"
	if p.Version >= "2020-08-01" {
		w.DiscoveryURL = host + "/discovery/workspaces/" + w.WorkspaceID
	}
	w.MLFlowTrackingURI = "azureml" + strings.TrimPrefix(host, "https") + "/mlflow/v1.0" + p.Row.ID
	w.StorageHNSEnabled = ptr(false)
	w.PrivateLinkCount = ptr(0)
	if w.PublicNetworkAccess == "" {
		w.PublicNetworkAccess = "Enabled"
	}
}

// workspaceKeys lists what Berth has: it keeps no keys of storage accounts or registries
// yet, and clients tolerate their absence.
func (s *Service) workspaceKeys(_ context.Context, a *resource.ActionCall[Workspace]) (any, error) {
	return map[string]any{"userStorageResourceId": nullable(a.Doc.Properties.StorageAccount)}, nil
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func ptr[T any](v T) *T { return &v }

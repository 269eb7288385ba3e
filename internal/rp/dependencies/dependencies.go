// Package dependencies declares the resources that a workspace refers to: storage account,
// key vault, application insights and container registry. They can be created, shown
// and referred to, as far as making a workspace needs it; what they would do is not
// offered, and what asks for it is refused by name.
package dependencies

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// Service is the provider of these types.
type Service struct{ Tenant string }

// Types are the declarations.
func (s *Service) Types() []*resource.Type {
	types := []*resource.Type{s.storageAccount(), s.vault(), s.component(), s.registry()}
	for _, t := range []struct {
		of   *resource.Type
		kind string
	}{{types[0], kindStorage}, {types[1], kindVault}, {types[3], kindRegistry}} {
		types = append(types, resource.NewVirtual(t.of.Namespace+"/checkNameAvailability", "Whether a name is free.", t.of.Versions, resource.InSubscription, resource.Virtual{Post: available(t.of, t.kind)}))
	}
	return append(types, parts(types[0], types[1])...)
}

// Kinds whose names are unique in the whole installation, as their hosts' names are.
const (
	kindStorage  = "storage account"
	kindVault    = "key vault"
	kindRegistry = "container registry"
)

// storageServices are the services of a storage account, each with a host.
var storageServices = []string{"blob", "file", "queue", "table", "dfs", "web"}

// available answers whether a name of a type is valid and free.
func available(t *resource.Type, kind string) func(context.Context, *resource.Call) (*resource.Answer, error) {
	return func(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
		var body struct{ Name string }
		if err := json.Unmarshal(c.Body, &body); err != nil || body.Name == "" {
			return nil, armerr.Field("name", "the field is required. Send {\"name\": \"…\", \"type\": %q}.", t.Name)
		}
		no := func(reason, message string) *resource.Answer {
			return &resource.Answer{Body: map[string]any{"nameAvailable": false, "reason": reason, "message": message}}
		}
		if err := t.CheckName(body.Name); err != nil {
			return no("AccountNameInvalid", armerr.Of(err).Message), nil
		}
		owner := ""
		err := c.Manager.Store.View(ctx, func(tx store.ReadTx) (err error) {
			owner, err = tx.ClaimOwner(kind + ":" + strings.ToLower(body.Name))
			return err
		})
		if err != nil {
			return nil, err
		}
		if owner != "" {
			return no("AlreadyExists", fmt.Sprintf("The %s named %s is already taken.", kind, body.Name)), nil
		}
		return &resource.Answer{Body: map[string]any{"nameAvailable": true}}, nil
	}
}

// claim makes a name unique in all subscriptions, as Azure's DNS names are.
func claim(tx store.Tx, kind, name, owner string) error {
	err := tx.Claim(kind+":"+strings.ToLower(name), owner)
	if _, taken := err.(*store.ClaimedError); taken {
		e := armerr.New(armerr.CodeNameTaken, "The name %q is taken by another %s; such names are unique in the whole installation. Choose another.", name, kind)
		e.Target = "name"
		return e
	}
	return err
}

// stableGUID is a GUID that follows from the resource, so that nothing has to be kept.
func stableGUID(kind string, row *store.Resource) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(kind+":"+row.Key+row.Created.At.String())).String()
}

const deleteOrder = 30 // after the workspaces that refer to them

// inUse refuses to delete what a workspace refers to.
func inUse(tx store.ReadTx, key string) error {
	rows, _, err := tx.Resources(store.Query{Type: "microsoft.machinelearningservices/workspaces"})
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.DeletedAt == nil && strings.Contains(strings.ToLower(string(row.Spec)), `"`+key+`"`) {
			return armerr.New(armerr.CodeConflict, "The workspace '%s' refers to this resource. Delete the workspace first.", row.ID)
		}
	}
	return nil
}

// StorageAccount is the properties of a storage account.
type StorageAccount struct {
	ProvisioningState   string                     `json:"provisioningState,omitempty" arm:"readonly"`
	PrimaryEndpoints    json.RawMessage            `json:"primaryEndpoints,omitempty" arm:"readonly"`
	PrimaryLocation     string                     `json:"primaryLocation,omitempty" arm:"readonly"`
	StatusOfPrimary     string                     `json:"statusOfPrimary,omitempty" arm:"readonly"`
	CreationTime        string                     `json:"creationTime,omitempty" arm:"readonly"`
	KeyCreationTime     json.RawMessage            `json:"keyCreationTime,omitempty" arm:"readonly"`
	AccessTier          string                     `json:"accessTier,omitempty" arm:"enum=Hot|Cool|Premium|Cold"`
	HTTPSOnly           *bool                      `json:"supportsHttpsTrafficOnly,omitempty"`
	MinTLS              string                     `json:"minimumTlsVersion,omitempty" arm:"enum=TLS1_0|TLS1_1|TLS1_2|TLS1_3"`
	PublicAccess        *bool                      `json:"allowBlobPublicAccess,omitempty"`
	SharedKeyAccess     *bool                      `json:"allowSharedKeyAccess,omitempty"`
	CrossTenant         *bool                      `json:"allowCrossTenantReplication,omitempty"`
	DefaultToOAuth      *bool                      `json:"defaultToOAuthAuthentication,omitempty"`
	HNS                 *bool                      `json:"isHnsEnabled,omitempty" arm:"unsupported"`
	NFS                 *bool                      `json:"isNfsV3Enabled,omitempty" arm:"unsupported"`
	SFTP                *bool                      `json:"isSftpEnabled,omitempty" arm:"unsupported"`
	LocalUser           *bool                      `json:"isLocalUserEnabled,omitempty"`
	LargeFileShares     string                     `json:"largeFileSharesState,omitempty" arm:"unsupported,default=Disabled"`
	PublicNetworkAccess string                     `json:"publicNetworkAccess,omitempty" arm:"unsupported,default=Enabled"`
	DNSEndpointType     string                     `json:"dnsEndpointType,omitempty" arm:"unsupported,default=Standard"`
	CopyScope           string                     `json:"allowedCopyScope,omitempty" arm:"unsupported"`
	NetworkACLs         map[string]json.RawMessage `json:"networkAcls,omitempty"`
	Encryption          map[string]json.RawMessage `json:"encryption,omitempty"`
	SASPolicy           json.RawMessage            `json:"sasPolicy,omitempty" arm:"unsupported"`
	KeyPolicy           json.RawMessage            `json:"keyPolicy,omitempty" arm:"unsupported"`
	CustomDomain        json.RawMessage            `json:"customDomain,omitempty" arm:"unsupported"`
	Immutable           json.RawMessage            `json:"immutableStorageWithVersioning,omitempty" arm:"unsupported"`
	FilesIdentity       json.RawMessage            `json:"azureFilesIdentityBasedAuthentication,omitempty" arm:"unsupported"`
	Routing             json.RawMessage            `json:"routingPreference,omitempty" arm:"unsupported"`
}

// ofWorkspace are the names under which package artifact keeps the files of workspaces that refer to no account. Whoever had an account of such
// a name could reach them through a workspace of his own.
var ofWorkspace = regexp.MustCompile(`^berth[0-9a-f]{16}$`)

func (s *Service) storageAccount() *resource.Type {
	return resource.New(resource.Definition[StorageAccount]{
		Type: "Microsoft.Storage/storageAccounts", Summary: "A storage account that a workspace refers to.", Tracked: true, CreateStatus: 200, DeleteOrder: deleteOrder,
		Versions: []string{"2015-06-15", "2016-01-01", "2017-06-01", "2017-10-01", "2018-02-01", "2018-07-01", "2018-11-01", "2019-04-01", "2019-06-01", "2020-08-01-preview", "2021-01-01", "2021-02-01", "2021-04-01", "2021-06-01", "2021-08-01", "2021-09-01", "2022-05-01", "2022-09-01", "2023-01-01", "2023-04-01", "2023-05-01", "2024-01-01", "2025-01-01", "2025-06-01", "2025-08-01"},
		Names:    resource.NameRule{Pattern: regexp.MustCompile(`^[a-z0-9]{3,24}$`), Description: "has 3 to 24 lower-case letters and digits"},
		Admit: func(_ context.Context, d *resource.Draft[StorageAccount]) error {
			if ofWorkspace.MatchString(d.ID.Name()) {
				d.Fail("name", "names of berth and 16 hexadecimal digits are those under which Berth keeps the files of workspaces without a storage account. Choose another name.")
			}
			if d.New.Kind == "" {
				d.New.Kind = "StorageV2"
			}
			if d.New.SKU == nil {
				d.New.SKU = &resource.SKU{Name: "Standard_LRS"}
			}
			if d.New.SKU.Tier == "" {
				d.New.SKU.Tier, _, _ = strings.Cut(d.New.SKU.Name, "_")
			}
			if d.New.Properties.AccessTier == "" {
				d.New.Properties.AccessTier = "Hot"
			}
			return claim(d.Tx, kindStorage, d.ID.Name(), d.ID.Key())
		},
		Removable: func(_ context.Context, r *resource.Removal[StorageAccount]) error { return inUse(r.Tx, r.ID.Key()) },
		Present: func(p *resource.Presentation[StorageAccount]) {
			a := &p.Doc.Properties
			name := strings.ToLower(p.ID.Name())
			a.PrimaryLocation, a.StatusOfPrimary, a.CreationTime = p.Row.Location, "available", resource.Timestamp(p.Row.Created.At)
			endpoints := map[string]string{}
			for _, service := range storageServices {
				endpoints[service] = "https://" + name + "." + service + ".core.windows.net/"
			}
			a.PrimaryEndpoints, _ = json.Marshal(endpoints) // a map of strings always marshals
		},
		Actions: []resource.Action[StorageAccount]{{Name: "listKeys", Summary: "List the account's keys: there are none.", Do: func(_ context.Context, a *resource.ActionCall[StorageAccount]) (any, error) {
			e := armerr.New(armerr.CodeNotSupported, "The storage account '%s' has no keys, because Berth keeps nothing in it.", a.ID.Name())
			e.Status = http.StatusConflict // what clients who can do without keys expect of an account that gives none
			return nil, e
		}}},
	})
}

// Vault is the properties of a key vault.
type Vault struct {
	ProvisioningState   string                       `json:"provisioningState,omitempty" arm:"readonly"`
	TenantID            string                       `json:"tenantId,omitempty" arm:"format=guid"`
	VaultURI            string                       `json:"vaultUri,omitempty" arm:"maxlen=256"`
	SKU                 *resource.SKU                `json:"sku,omitempty"`
	AccessPolicies      []map[string]json.RawMessage `json:"accessPolicies"`
	EnabledDeployment   *bool                        `json:"enabledForDeployment,omitempty"`
	EnabledEncryption   *bool                        `json:"enabledForDiskEncryption,omitempty"`
	EnabledTemplate     *bool                        `json:"enabledForTemplateDeployment,omitempty"`
	SoftDelete          *bool                        `json:"enableSoftDelete,omitempty"`
	SoftDeleteDays      *int                         `json:"softDeleteRetentionInDays,omitempty" arm:"min=7,max=90"`
	RBAC                *bool                        `json:"enableRbacAuthorization,omitempty"`
	PurgeProtection     *bool                        `json:"enablePurgeProtection,omitempty"`
	CreateMode          string                       `json:"createMode,omitempty" arm:"unsupported,default=default"`
	NetworkACLs         map[string]json.RawMessage   `json:"networkAcls,omitempty"`
	PublicNetworkAccess string                       `json:"publicNetworkAccess,omitempty" arm:"unsupported,default=Enabled"`
	HSMPoolID           string                       `json:"hsmPoolResourceId,omitempty" arm:"readonly"`
	PrivateEndpoints    json.RawMessage              `json:"privateEndpointConnections,omitempty" arm:"readonly"`
}

func (s *Service) vault() *resource.Type {
	return resource.New(resource.Definition[Vault]{
		Type: "Microsoft.KeyVault/vaults", Summary: "A key vault that a workspace refers to.", Tracked: true, CreateStatus: 200, DeleteOrder: deleteOrder,
		Versions: []string{"2015-06-01", "2016-10-01", "2018-02-14", "2019-09-01", "2020-04-01-preview", "2021-06-01-preview", "2021-10-01", "2022-07-01", "2023-02-01", "2023-07-01", "2024-11-01", "2025-05-01", "2026-02-01"},
		Names:    resource.NameRule{Pattern: regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$`), Description: "has 3 to 24 letters, digits and dashes, begins with a letter and ends with a letter or digit"},
		Admit: func(_ context.Context, d *resource.Draft[Vault]) error {
			v := &d.New.Properties
			if v.TenantID == "" {
				v.TenantID = s.Tenant
			}
			if v.SKU == nil {
				v.SKU = &resource.SKU{Family: "A", Name: "standard"}
			}
			v.VaultURI = "https://" + strings.ToLower(d.ID.Name()) + ".vault.azure.net/"
			if len(v.AccessPolicies) == 0 {
				v.AccessPolicies = []map[string]json.RawMessage{}
			}
			return claim(d.Tx, kindVault, d.ID.Name(), d.ID.Key())
		},
		Removable: func(_ context.Context, r *resource.Removal[Vault]) error { return inUse(r.Tx, r.ID.Key()) },
	})
}

// Component is the properties of an application insights component.
type Component struct {
	ProvisioningState   string `json:"provisioningState,omitempty" arm:"readonly"`
	ApplicationType     string `json:"Application_Type,omitempty" arm:"maxlen=64"`
	ApplicationID       string `json:"ApplicationId,omitempty" arm:"readonly"`
	AppID               string `json:"AppId,omitempty" arm:"readonly"`
	InstrumentationKey  string `json:"InstrumentationKey,omitempty" arm:"readonly"`
	ConnectionString    string `json:"ConnectionString,omitempty" arm:"readonly"`
	Name                string `json:"Name,omitempty" arm:"readonly"`
	CreationDate        string `json:"CreationDate,omitempty" arm:"readonly"`
	TenantID            string `json:"TenantId,omitempty" arm:"readonly"`
	FlowType            string `json:"Flow_Type,omitempty" arm:"maxlen=64"`
	RequestSource       string `json:"Request_Source,omitempty" arm:"maxlen=64"`
	RetentionInDays     *int   `json:"RetentionInDays,omitempty" arm:"min=30,max=730"`
	SamplingPercentage  *int   `json:"SamplingPercentage,omitempty" arm:"min=0,max=100"`
	WorkspaceResourceID string `json:"WorkspaceResourceId,omitempty" arm:"maxlen=1024"`
	IngestionMode       string `json:"IngestionMode,omitempty" arm:"maxlen=64"`
	DisableIPMasking    *bool  `json:"DisableIpMasking,omitempty"`
	DisableLocalAuth    *bool  `json:"DisableLocalAuth,omitempty"`
	IngestionAccess     string `json:"publicNetworkAccessForIngestion,omitempty" arm:"unsupported,default=Enabled"`
	QueryAccess         string `json:"publicNetworkAccessForQuery,omitempty" arm:"unsupported,default=Enabled"`
	ForceProfiler       *bool  `json:"ForceCustomerStorageForProfiler,omitempty" arm:"unsupported"`
	HockeyAppID         string `json:"HockeyAppId,omitempty" arm:"unsupported"`
	ImmediatePurge      *bool  `json:"ImmediatePurgeDataOn30Days,omitempty"`
}

func (s *Service) component() *resource.Type {
	return resource.New(resource.Definition[Component]{
		Type: "Microsoft.Insights/components", Summary: "An application insights component that a workspace refers to.", Tracked: true, CreateStatus: 200, DeleteOrder: deleteOrder,
		Versions: []string{"2015-05-01", "2018-05-01-preview", "2020-02-02-preview", "2020-02-02"},
		Names:    resource.NameRule{Pattern: regexp.MustCompile(`^[^%&\\?/]{0,259}[^%&\\?/. ]$`), Description: "has 1 to 260 characters without % & \\ ? / and does not end with a period or space"},
		Admit: func(_ context.Context, d *resource.Draft[Component]) error {
			if d.New.Kind == "" {
				d.New.Kind = "web"
			}
			if d.New.Properties.ApplicationType == "" {
				d.New.Properties.ApplicationType = "web"
			}
			return nil
		},
		Removable: func(_ context.Context, r *resource.Removal[Component]) error { return inUse(r.Tx, r.ID.Key()) },
		Present: func(p *resource.Presentation[Component]) {
			c := &p.Doc.Properties
			c.Name, c.ApplicationID, c.TenantID = p.ID.Name(), p.ID.Name(), p.ID.SubscriptionID()
			c.AppID, c.InstrumentationKey = stableGUID("app", p.Row), stableGUID("ikey", p.Row)
			c.ConnectionString = "InstrumentationKey=" + c.InstrumentationKey
			c.CreationDate = resource.Timestamp(p.Row.Created.At)
		},
	})
}

// Registry is the properties of a container registry.
type Registry struct {
	ProvisioningState   string                     `json:"provisioningState,omitempty" arm:"readonly"`
	LoginServer         string                     `json:"loginServer,omitempty" arm:"readonly"`
	CreationDate        string                     `json:"creationDate,omitempty" arm:"readonly"`
	AdminUserEnabled    *bool                      `json:"adminUserEnabled,omitempty"`
	AnonymousPull       *bool                      `json:"anonymousPullEnabled,omitempty" arm:"unsupported"`
	DataEndpoint        *bool                      `json:"dataEndpointEnabled,omitempty" arm:"unsupported"`
	PublicNetworkAccess string                     `json:"publicNetworkAccess,omitempty" arm:"unsupported,default=Enabled"`
	BypassOptions       string                     `json:"networkRuleBypassOptions,omitempty" arm:"unsupported,default=AzureServices"`
	ZoneRedundancy      string                     `json:"zoneRedundancy,omitempty" arm:"unsupported,default=Disabled"`
	Encryption          json.RawMessage            `json:"encryption,omitempty" arm:"unsupported"`
	NetworkRules        json.RawMessage            `json:"networkRuleSet,omitempty" arm:"unsupported"`
	Policies            map[string]json.RawMessage `json:"policies,omitempty"`
	MetadataSearch      string                     `json:"metadataSearch,omitempty" arm:"unsupported,default=Disabled"`
	AutoLabelScope      string                     `json:"autoGeneratedDomainNameLabelScope,omitempty" arm:"unsupported,default=Unsecure"`
	RoleAssignmentMode  string                     `json:"roleAssignmentMode,omitempty" arm:"unsupported,default=LegacyRegistryPermissions"`
}

func (s *Service) registry() *resource.Type {
	return resource.New(resource.Definition[Registry]{
		Type: "Microsoft.ContainerRegistry/registries", Summary: "A container registry that a workspace refers to.", Tracked: true, CreateStatus: 200, DeleteOrder: deleteOrder,
		Versions: []string{"2017-10-01", "2019-05-01", "2019-12-01-preview", "2020-11-01-preview", "2021-06-01-preview", "2021-09-01", "2022-12-01", "2023-01-01-preview", "2023-07-01", "2023-11-01-preview", "2025-04-01", "2025-11-01"},
		Names:    resource.NameRule{Pattern: regexp.MustCompile(`^[a-zA-Z0-9]{5,50}$`), Description: "has 5 to 50 letters and digits"},
		Admit: func(_ context.Context, d *resource.Draft[Registry]) error {
			if d.New.SKU == nil || d.New.SKU.Name == "" {
				d.Fail("sku", "the SKU is required: name Basic, Standard or Premium.")
				return nil
			}
			d.New.SKU.Tier = d.New.SKU.Name
			return claim(d.Tx, kindRegistry, d.ID.Name(), d.ID.Key())
		},
		Removable: func(_ context.Context, r *resource.Removal[Registry]) error { return inUse(r.Tx, r.ID.Key()) },
		Present: func(p *resource.Presentation[Registry]) {
			p.Doc.Properties.LoginServer = strings.ToLower(p.ID.Name()) + ".azurecr.io"
			p.Doc.Properties.CreationDate = resource.Timestamp(p.Row.Created.At)
		},
	})
}

// Package containerservice is the resource provider Microsoft.ContainerService: managed
// clusters and their agent pools. It turns what clients ask for into a cluster.Spec, lets
// a cluster.Provider make it real, and reports what the provider sees. It knows no
// other provider of resources; Microsoft.MachineLearningServices builds on it.
package containerservice

import "encoding/json"

// Namespace is the provider's name in resource IDs.
const Namespace = "Microsoft.ContainerService"

// The provider's types.
const (
	ManagedClusters = Namespace + "/managedClusters"
	AgentPools      = ManagedClusters + "/agentPools"
)

// Versions are the api-versions that known clients send for managed clusters and agent
// pools: azure-cli since 2.25, the ARM SDKs, Terraform and the quickstart templates.
var Versions = []string{
	"2019-08-01", "2020-03-01", "2020-06-01", "2020-09-01", "2020-11-01", "2021-03-01", "2021-05-01", "2021-07-01", "2021-08-01", "2021-09-01", "2021-10-01",
	"2022-01-01", "2022-02-01", "2022-03-01", "2022-04-01", "2022-06-01", "2022-07-01", "2022-09-01", "2022-11-01",
	"2023-01-01", "2023-02-01", "2023-03-01", "2023-04-01", "2023-05-01", "2023-06-01", "2023-07-01", "2023-08-01", "2023-09-01", "2023-10-01", "2023-11-01",
	"2024-01-01", "2024-02-01", "2024-05-01", "2024-06-01", "2024-07-01", "2024-08-01", "2024-09-01", "2024-10-01",
	"2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01", "2025-05-01", "2025-06-01", "2025-07-01", "2025-08-01", "2025-09-01", "2025-10-01",
	"2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01", "2026-06-01", "2026-08-01",
}

// ManagedCluster is the properties of a managed cluster. Fields that nothing here can
// honour are known and refused by name.
type ManagedCluster struct {
	ProvisioningState        string           `json:"provisioningState,omitempty" arm:"readonly"`
	PowerState               *PowerState      `json:"powerState,omitempty" arm:"readonly"`
	KubernetesVersion        string           `json:"kubernetesVersion,omitempty" arm:"maxlen=32"`
	CurrentKubernetesVersion string           `json:"currentKubernetesVersion,omitempty" arm:"readonly"`
	DNSPrefix                string           `json:"dnsPrefix,omitempty" arm:"maxlen=54,immutable"`
	FQDN                     string           `json:"fqdn,omitempty" arm:"readonly"`
	PrivateFQDN              string           `json:"privateFQDN,omitempty" arm:"readonly"`
	AzurePortalFQDN          string           `json:"azurePortalFQDN,omitempty" arm:"readonly"`
	AgentPoolProfiles        []PoolProfile    `json:"agentPoolProfiles,omitempty" arm:"maxlen=100"`
	LinuxProfile             *LinuxProfile    `json:"linuxProfile,omitempty"`
	ServicePrincipalProfile  *ClusterSP       `json:"servicePrincipalProfile,omitempty"`
	NodeResourceGroup        string           `json:"nodeResourceGroup,omitempty" arm:"maxlen=80,immutable"`
	EnableRBAC               *bool            `json:"enableRBAC,omitempty"`
	DisableLocalAccounts     *bool            `json:"disableLocalAccounts,omitempty"`
	SupportPlan              string           `json:"supportPlan,omitempty" arm:"enum=KubernetesOfficial|AKSLongTermSupport"`
	NetworkProfile           *NetworkProfile  `json:"networkProfile,omitempty"`
	APIServerAccess          *APIServerAccess `json:"apiServerAccessProfile,omitempty"`
	MaxAgentPools            int              `json:"maxAgentPools,omitempty" arm:"readonly"`
	ResourceUID              string           `json:"resourceUID,omitempty" arm:"readonly"`
	PublicNetworkAccess      string           `json:"publicNetworkAccess,omitempty" arm:"unsupported,default=Enabled"`

	// Echoed by clients that send back what they read, or sent with settings that ask for nothing.
	IdentityProfile           json.RawMessage     `json:"identityProfile,omitempty" arm:"readonly"`
	SecurityProfile           json.RawMessage     `json:"securityProfile,omitempty" arm:"unsupported"`
	StorageProfile            *StorageProfile     `json:"storageProfile,omitempty"`
	OIDCIssuerProfile         json.RawMessage     `json:"oidcIssuerProfile,omitempty" arm:"unsupported"`
	AddonProfiles             map[string]Addon    `json:"addonProfiles,omitempty" arm:"maxlen=50"`
	AutoUpgradeProfile        *AutoUpgradeProfile `json:"autoUpgradeProfile,omitempty"`
	WorkloadAutoScalerProfile json.RawMessage     `json:"workloadAutoScalerProfile,omitempty" arm:"unsupported"`
	AzureMonitorProfile       json.RawMessage     `json:"azureMonitorProfile,omitempty" arm:"unsupported"`
	MetricsProfile            json.RawMessage     `json:"metricsProfile,omitempty" arm:"unsupported"`
	BootstrapProfile          *BootstrapProfile   `json:"bootstrapProfile,omitempty"`
	NodeProvisioningProfile   *NodeProvisioning   `json:"nodeProvisioningProfile,omitempty"`
	NodeResourceGroupProfile  *NodeGroupProfile   `json:"nodeResourceGroupProfile,omitempty"`

	// Known to Azure, not here.
	AADProfile              json.RawMessage `json:"aadProfile,omitempty" arm:"unsupported"`
	AIToolchainProfile      json.RawMessage `json:"aiToolchainOperatorProfile,omitempty" arm:"unsupported"`
	AutoScalerProfile       json.RawMessage `json:"autoScalerProfile,omitempty" arm:"unsupported"`
	DiskEncryptionSetID     string          `json:"diskEncryptionSetID,omitempty" arm:"unsupported"`
	EnablePodSecurityPolicy *bool           `json:"enablePodSecurityPolicy,omitempty" arm:"unsupported"`
	FqdnSubdomain           string          `json:"fqdnSubdomain,omitempty" arm:"unsupported"`
	HostedSystemProfile     json.RawMessage `json:"hostedSystemProfile,omitempty" arm:"unsupported"`
	HTTPProxyConfig         json.RawMessage `json:"httpProxyConfig,omitempty" arm:"unsupported"`
	IngressProfile          json.RawMessage `json:"ingressProfile,omitempty" arm:"unsupported"`
	PodIdentityProfile      json.RawMessage `json:"podIdentityProfile,omitempty" arm:"unsupported"`
	PrivateLinkResources    json.RawMessage `json:"privateLinkResources,omitempty" arm:"unsupported"`
	ServiceMeshProfile      json.RawMessage `json:"serviceMeshProfile,omitempty" arm:"unsupported,default=map[mode:Disabled]"`
	UpgradeSettings         json.RawMessage `json:"upgradeSettings,omitempty" arm:"unsupported"`
	WindowsProfile          *WindowsProfile `json:"windowsProfile,omitempty"`
	Status                  json.RawMessage `json:"status,omitempty" arm:"readonly"`
}

// Addon can only be off, which clients say of add-ons that nobody asked for.
type Addon struct {
	Enabled bool              `json:"enabled" arm:"unsupported"`
	Config  map[string]string `json:"config,omitempty" arm:"readonly"` // of what is off: it means nothing
}

// PowerState is whether something runs.
type PowerState struct {
	Code string `json:"code,omitempty" arm:"enum=Running|Stopped"`
}

// LinuxProfile is stored and shown. The local nodes have no SSH server to put it into.
type LinuxProfile struct {
	AdminUsername string `json:"adminUsername,omitempty" arm:"maxlen=64"`
	SSH           *struct {
		PublicKeys []struct {
			KeyData string `json:"keyData,omitempty" arm:"maxlen=16384"`
		} `json:"publicKeys,omitempty"`
	} `json:"ssh,omitempty"`
}

// WindowsProfile is accepted because clients send it with defaults; Windows pools are refused.
type WindowsProfile struct {
	AdminUsername  string          `json:"adminUsername,omitempty" arm:"maxlen=64"`
	AdminPassword  string          `json:"adminPassword,omitempty" arm:"secret,maxlen=128"`
	LicenseType    string          `json:"licenseType,omitempty" arm:"unsupported,default=None"`
	EnableCSIProxy *bool           `json:"enableCSIProxy,omitempty"`
	GMSAProfile    json.RawMessage `json:"gmsaProfile,omitempty" arm:"unsupported"`
}

// ClusterSP is the cluster's own service principal; "msi" stands for a managed identity.
type ClusterSP struct {
	ClientID string `json:"clientId,omitempty" arm:"maxlen=64"`
	Secret   string `json:"secret,omitempty" arm:"secret,maxlen=256"`
}

// NetworkProfile is the cluster's inner network.
type NetworkProfile struct {
	NetworkPlugin       string          `json:"networkPlugin,omitempty" arm:"enum=kubenet|azure,immutable"`
	NetworkPluginMode   string          `json:"networkPluginMode,omitempty" arm:"unsupported,default=overlay"`
	NetworkPolicy       string          `json:"networkPolicy,omitempty" arm:"unsupported,default=none"`
	NetworkMode         string          `json:"networkMode,omitempty" arm:"unsupported"`
	NetworkDataplane    string          `json:"networkDataplane,omitempty" arm:"unsupported,default=azure"`
	AdvancedNetworking  json.RawMessage `json:"advancedNetworking,omitempty" arm:"unsupported"`
	PodCIDR             string          `json:"podCidr,omitempty" arm:"format=cidr,immutable"`
	PodCIDRs            []string        `json:"podCidrs,omitempty" arm:"format=cidr,maxlen=1"`
	PodLinkLocalAccess  string          `json:"podLinkLocalAccess,omitempty" arm:"unsupported,default=IMDS"`
	ServiceCIDR         string          `json:"serviceCidr,omitempty" arm:"format=cidr,immutable"`
	ServiceCIDRs        []string        `json:"serviceCidrs,omitempty" arm:"format=cidr,maxlen=1"`
	DNSServiceIP        string          `json:"dnsServiceIP,omitempty" arm:"format=ipv4,immutable"`
	DockerBridgeCIDR    string          `json:"dockerBridgeCidr,omitempty" arm:"format=cidr,until=2022-12-31"`
	IPFamilies          []string        `json:"ipFamilies,omitempty" arm:"enum=IPv4,maxlen=1"`
	OutboundType        string          `json:"outboundType,omitempty" arm:"unsupported,default=loadBalancer|none,immutable"`
	LoadBalancerSKU     string          `json:"loadBalancerSku,omitempty" arm:"enum=basic|standard,immutable"`
	LoadBalancerProfile json.RawMessage `json:"loadBalancerProfile,omitempty"`
	NATGatewayProfile   json.RawMessage `json:"natGatewayProfile,omitempty" arm:"unsupported"`
	StaticEgressGateway json.RawMessage `json:"staticEgressGatewayProfile,omitempty" arm:"unsupported"`
	KubeProxyConfig     json.RawMessage `json:"kubeProxyConfig,omitempty" arm:"unsupported"`
}

// APIServerAccess restricts who reaches the API server.
type APIServerAccess struct {
	AuthorizedIPRanges             []string        `json:"authorizedIPRanges,omitempty" arm:"maxlen=200"`
	EnablePrivateCluster           *bool           `json:"enablePrivateCluster,omitempty" arm:"immutable"`
	PrivateDNSZone                 string          `json:"privateDNSZone,omitempty" arm:"unsupported"`
	EnablePrivateClusterPublicFQDN *bool           `json:"enablePrivateClusterPublicFQDN,omitempty" arm:"unsupported"`
	DisableRunCommand              *bool           `json:"disableRunCommand,omitempty"`
	EnableVnetIntegration          *bool           `json:"enableVnetIntegration,omitempty" arm:"unsupported"`
	SubnetID                       string          `json:"subnetId,omitempty" arm:"unsupported"`
	Extra                          json.RawMessage `json:"enableAuthorizedIPRangesForPrivate,omitempty" arm:"unsupported"`
}

// StorageProfile switches CSI drivers; there are none here.
type StorageProfile struct {
	BlobCSIDriver      json.RawMessage `json:"blobCSIDriver,omitempty" arm:"unsupported"`
	DiskCSIDriver      json.RawMessage `json:"diskCSIDriver,omitempty" arm:"readonly"`
	FileCSIDriver      json.RawMessage `json:"fileCSIDriver,omitempty" arm:"readonly"`
	SnapshotController json.RawMessage `json:"snapshotController,omitempty" arm:"readonly"`
}

// AutoUpgradeProfile names upgrade channels; a local node has no operating system image
// of its own, so NodeImage asks for nothing.
type AutoUpgradeProfile struct {
	UpgradeChannel       string `json:"upgradeChannel,omitempty" arm:"unsupported,default=none"`
	NodeOSUpgradeChannel string `json:"nodeOSUpgradeChannel,omitempty" arm:"enum=None|NodeImage|Unmanaged|SecurityPatch"`
}

// BootstrapProfile says where nodes get their images; only the default is possible.
type BootstrapProfile struct {
	ArtifactSource      string `json:"artifactSource,omitempty" arm:"unsupported,default=Direct"`
	ContainerRegistryID string `json:"containerRegistryId,omitempty" arm:"unsupported"`
}

// NodeProvisioning is Karpenter's switch.
type NodeProvisioning struct {
	Mode             string `json:"mode,omitempty" arm:"unsupported,default=Manual"`
	DefaultNodePools string `json:"defaultNodePools,omitempty" arm:"unsupported,default=Auto"`
}

// NodeGroupProfile locks the node resource group.
type NodeGroupProfile struct {
	RestrictionLevel string `json:"restrictionLevel,omitempty" arm:"unsupported,default=Unrestricted"`
}

// PoolProfile is one pool inside a managed cluster.
type PoolProfile struct {
	Name string `json:"name,omitempty" arm:"required,maxlen=12"`
	PoolProperties
}

// PoolProperties is the properties of an agent pool.
type PoolProperties struct {
	ProvisioningState          string            `json:"provisioningState,omitempty" arm:"readonly"`
	PowerState                 *PowerState       `json:"powerState,omitempty"`
	Count                      *int              `json:"count,omitempty" arm:"min=0,max=1000"`
	VMSize                     string            `json:"vmSize,omitempty" arm:"maxlen=64"`
	Mode                       string            `json:"mode,omitempty" arm:"enum=System|User"`
	Type                       string            `json:"type,omitempty" arm:"enum=VirtualMachineScaleSets|AvailabilitySet"`
	OSType                     string            `json:"osType,omitempty" arm:"unsupported,default=Linux"`
	OSSKU                      string            `json:"osSKU,omitempty" arm:"enum=Ubuntu|AzureLinux|AzureLinux3|CBLMariner|Ubuntu2204|Ubuntu2404"`
	OSDiskSizeGB               *int              `json:"osDiskSizeGB,omitempty" arm:"min=0,max=2048"`
	OSDiskType                 string            `json:"osDiskType,omitempty" arm:"enum=Managed|Ephemeral"`
	KubeletDiskType            string            `json:"kubeletDiskType,omitempty" arm:"unsupported,default=OS"`
	WorkloadRuntime            string            `json:"workloadRuntime,omitempty" arm:"unsupported,default=OCIContainer"`
	MaxPods                    *int              `json:"maxPods,omitempty" arm:"min=0,max=250"`
	OrchestratorVersion        string            `json:"orchestratorVersion,omitempty" arm:"maxlen=32"`
	CurrentOrchestratorVersion string            `json:"currentOrchestratorVersion,omitempty" arm:"readonly"`
	NodeImageVersion           string            `json:"nodeImageVersion,omitempty" arm:"readonly"`
	NodeLabels                 map[string]string `json:"nodeLabels,omitempty"`
	NodeTaints                 []string          `json:"nodeTaints,omitempty" arm:"maxlen=50"`
	Tags                       map[string]string `json:"tags,omitempty"`
	EnableAutoScaling          *bool             `json:"enableAutoScaling,omitempty" arm:"unsupported"`
	MinCount                   *int              `json:"minCount,omitempty" arm:"unsupported"`
	MaxCount                   *int              `json:"maxCount,omitempty" arm:"unsupported"`
	ScaleDownMode              string            `json:"scaleDownMode,omitempty" arm:"unsupported,default=Delete"`
	ScaleSetPriority           string            `json:"scaleSetPriority,omitempty" arm:"unsupported,default=Regular"`
	ScaleSetEvictionPolicy     string            `json:"scaleSetEvictionPolicy,omitempty" arm:"unsupported,default=Delete"`
	SpotMaxPrice               *float64          `json:"spotMaxPrice,omitempty" arm:"unsupported,default=-1"`
	UpgradeSettings            json.RawMessage   `json:"upgradeSettings,omitempty"`
	UpgradeSettingsBlueGreen   json.RawMessage   `json:"upgradeSettingsBlueGreen,omitempty" arm:"unsupported"`
	UpgradeStrategy            string            `json:"upgradeStrategy,omitempty" arm:"unsupported,default=Rolling"`
	AvailabilityZones          []string          `json:"availabilityZones,omitempty" arm:"unsupported"`
	VnetSubnetID               string            `json:"vnetSubnetID,omitempty" arm:"unsupported"`
	PodSubnetID                string            `json:"podSubnetID,omitempty" arm:"unsupported"`
	PodIPAllocationMode        string            `json:"podIPAllocationMode,omitempty" arm:"unsupported,default=DynamicIndividual"`
	EnableNodePublicIP         *bool             `json:"enableNodePublicIP,omitempty" arm:"unsupported"`
	NodePublicIPPrefixID       string            `json:"nodePublicIPPrefixID,omitempty" arm:"unsupported"`
	EnableEncryptionAtHost     *bool             `json:"enableEncryptionAtHost,omitempty" arm:"unsupported"`
	EnableUltraSSD             *bool             `json:"enableUltraSSD,omitempty" arm:"unsupported"`
	EnableFIPS                 *bool             `json:"enableFIPS,omitempty" arm:"unsupported"`
	GPUInstanceProfile         string            `json:"gpuInstanceProfile,omitempty" arm:"unsupported"`
	GPUProfile                 json.RawMessage   `json:"gpuProfile,omitempty" arm:"unsupported"`
	KubeletConfig              json.RawMessage   `json:"kubeletConfig,omitempty" arm:"unsupported"`
	LinuxOSConfig              json.RawMessage   `json:"linuxOSConfig,omitempty" arm:"unsupported"`
	ProximityPlacementGroupID  string            `json:"proximityPlacementGroupID,omitempty" arm:"unsupported"`
	CapacityReservationGroupID string            `json:"capacityReservationGroupID,omitempty" arm:"unsupported"`
	HostGroupID                string            `json:"hostGroupID,omitempty" arm:"unsupported"`
	CreationData               json.RawMessage   `json:"creationData,omitempty" arm:"unsupported"`
	NetworkProfile             json.RawMessage   `json:"networkProfile,omitempty" arm:"unsupported"`
	WindowsProfile             json.RawMessage   `json:"windowsProfile,omitempty" arm:"unsupported"`
	SecurityProfile            json.RawMessage   `json:"securityProfile,omitempty" arm:"unsupported,default=map[sshAccess:LocalUser]"`
	LocalDNSProfile            json.RawMessage   `json:"localDNSProfile,omitempty" arm:"unsupported"`
	MessageOfTheDay            string            `json:"messageOfTheDay,omitempty" arm:"unsupported"`
	GatewayProfile             json.RawMessage   `json:"gatewayProfile,omitempty" arm:"unsupported"`
	ArtifactStreamingProfile   json.RawMessage   `json:"artifactStreamingProfile,omitempty" arm:"unsupported"`
	VirtualMachinesProfile     json.RawMessage   `json:"virtualMachinesProfile,omitempty" arm:"unsupported"`
	VirtualMachineNodesStatus  json.RawMessage   `json:"virtualMachineNodesStatus,omitempty" arm:"unsupported"`
	NodeInitTaints             []string          `json:"nodeInitializationTaints,omitempty" arm:"unsupported"`
	ETag                       string            `json:"eTag,omitempty" arm:"readonly"`
	Status                     json.RawMessage   `json:"status,omitempty" arm:"readonly"`
}

// Pool finds a pool by its name.
func (c *ManagedCluster) Pool(name string) (*PoolProfile, bool) {
	for i := range c.AgentPoolProfiles {
		if c.AgentPoolProfiles[i].Name == name {
			return &c.AgentPoolProfiles[i], true
		}
	}
	return nil, false
}

// Nodes is the number of nodes that all pools ask for.
func (c *ManagedCluster) Nodes() int {
	n := 0
	for _, p := range c.AgentPoolProfiles {
		if p.Count != nil {
			n += *p.Count
		}
	}
	return n
}

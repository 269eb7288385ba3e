# What someone writes who gets a workspace and its clusters from Terraform, with the azapi provider.

terraform {
  required_providers {
    azapi = { source = "azure/azapi" }
  }
}

provider "azapi" {}

variable "stage" {
  type    = string
  default = "one"
}

variable "nodes" {
  type    = number
  default = 1
}

variable "size" {
  type    = string
  default = "Standard_D4s_v3"
}

data "azapi_client_config" "me" {}

resource "azapi_resource" "group" {
  type     = "Microsoft.Resources/resourceGroups@2024-03-01"
  name     = "tf-rg"
  location = "West Europe"
  tags     = { stage = var.stage }
}

resource "azapi_resource" "insights" {
  type      = "Microsoft.Insights/components@2020-02-02"
  parent_id = azapi_resource.group.id
  name      = "tf-insights"
  location  = azapi_resource.group.location
  body      = { kind = "web", properties = { Application_Type = "web" } }
}

resource "azapi_resource" "vault" {
  type      = "Microsoft.KeyVault/vaults@2023-07-01"
  parent_id = azapi_resource.group.id
  name      = "tf-vault"
  location  = azapi_resource.group.location
  body = { properties = {
    tenantId       = data.azapi_client_config.me.tenant_id
    sku            = { family = "A", name = "standard" }
    accessPolicies = []
  } }
}

resource "azapi_resource" "storage" {
  type      = "Microsoft.Storage/storageAccounts@2023-01-01"
  parent_id = azapi_resource.group.id
  name      = "tfstorage"
  location  = azapi_resource.group.location
  body = {
    kind       = "StorageV2"
    sku        = { name = "Standard_LRS" }
    properties = { minimumTlsVersion = "TLS1_2" }
  }
}

resource "azapi_resource" "workspace" {
  type      = "Microsoft.MachineLearningServices/workspaces@2024-04-01"
  parent_id = azapi_resource.group.id
  name      = "tf-ws"
  location  = azapi_resource.group.location
  tags      = { stage = var.stage }
  identity { type = "SystemAssigned" }
  body = { properties = {
    friendlyName        = "Made by Terraform"
    storageAccount      = azapi_resource.storage.id
    keyVault            = azapi_resource.vault.id
    applicationInsights = azapi_resource.insights.id
  } }
  response_export_values = ["properties.workspaceId"]
}

resource "azapi_resource" "cluster" {
  type      = "Microsoft.ContainerService/managedClusters@2024-02-01"
  parent_id = azapi_resource.group.id
  name      = "tf-aks"
  location  = azapi_resource.group.location
  tags      = { stage = var.stage }
  identity { type = "SystemAssigned" }
  body = { properties = {
    dnsPrefix         = "tf"
    agentPoolProfiles = [{ name = "default", mode = "System", count = var.nodes, vmSize = var.size }]
  } }
  response_export_values = ["properties.fqdn"]
}

resource "azapi_resource" "created" {
  type      = "Microsoft.MachineLearningServices/workspaces/computes@2024-04-01"
  parent_id = azapi_resource.workspace.id
  name      = "tf-created"
  location  = azapi_resource.workspace.location
  body = { properties = {
    computeType = "AKS"
    properties  = { agentCount = 3, agentVmSize = "Standard_D4s_v3" }
  } }
}

resource "azapi_resource" "attached" {
  type      = "Microsoft.MachineLearningServices/workspaces/computes@2024-04-01"
  parent_id = azapi_resource.workspace.id
  name      = "tf-attached"
  location  = azapi_resource.workspace.location
  body = { properties = {
    computeType = "AKS"
    resourceId  = azapi_resource.cluster.id
    properties  = { clusterPurpose = "DevTest" }
  } }
}

data "azapi_resource" "attached" {
  type                   = "Microsoft.MachineLearningServices/workspaces/computes@2024-04-01"
  resource_id            = azapi_resource.attached.id
  response_export_values = ["properties.resourceId", "properties.isAttachedCompute"]
}

output "workspace" {
  value = azapi_resource.workspace.output.properties
}

output "cluster" {
  value = azapi_resource.cluster.output.properties
}

output "attached" {
  value = jsondecode(data.azapi_resource.attached.output).properties
}

data "azapi_resource_action" "kubeconfig" {
  type                   = "Microsoft.ContainerService/managedClusters@2024-02-01"
  resource_id            = azapi_resource.cluster.id
  action                 = "listClusterUserCredential"
  method                 = "POST"
  response_export_values = ["kubeconfigs"]
}

# What somebody hands on to the kubernetes provider. Had it changed, a plan would say so.
output "kubeconfig" {
  value     = base64decode(jsondecode(data.azapi_resource_action.kubeconfig.output).kubeconfigs[0].value)
  sensitive = true
}

# ARM wants to know what becomes of the cluster when a compute goes (underlyingResourceAction), and azapi
# 1.x has no argument for the query of its own DELETE. So these say it first; azapi's DELETE then
# finds the compute gone.

resource "azapi_resource_action" "delete_created" {
  type        = "Microsoft.MachineLearningServices/workspaces/computes@2024-04-01"
  resource_id = azapi_resource.created.id
  action      = "?underlyingResourceAction=Delete"
  method      = "DELETE"
  when        = "destroy"
}

resource "azapi_resource_action" "detach_attached" {
  type        = "Microsoft.MachineLearningServices/workspaces/computes@2024-04-01"
  resource_id = azapi_resource.attached.id
  action      = "?underlyingResourceAction=Detach"
  method      = "DELETE"
  when        = "destroy"
}

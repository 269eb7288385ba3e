package armerr

import "net/http"

// The codes Berth answers with. They are ARM's own wherever ARM has one.
const (
	CodeAuthenticationFailed      = "AuthenticationFailed"
	CodeAuthorizationFailed       = "AuthorizationFailed"
	CodeBadRequest                = "BadRequest"
	CodeConflict                  = "Conflict"
	CodeInternalServerError       = "InternalServerError"
	CodeInvalidAPIVersion         = "InvalidApiVersionParameter"
	CodeInvalidContentType        = "UnsupportedMediaType"
	CodeInvalidParameter          = "InvalidParameter"
	CodeInvalidRequestContent     = "InvalidRequestContent"
	CodeInvalidResourceID         = "InvalidResourceId"
	CodeInvalidResourceName       = "InvalidResourceName"
	CodeInvalidResourceType       = "InvalidResourceType"
	CodeInvalidSubscriptionID     = "InvalidSubscriptionId"
	CodeLocationNotAvailable      = "LocationNotAvailableForResourceType"
	CodeMethodNotAllowed          = "MethodNotAllowed"
	CodeMissingAPIVersion         = "MissingApiVersionParameter"
	CodeNoRegisteredProvider      = "NoRegisteredProviderFound"
	CodeInvalidResourceNamespace  = "InvalidResourceNamespace"
	CodeNotSupported              = "NotSupported"
	CodeOperationCanceled         = "OperationCanceled"
	CodeOperationNotAllowed       = "OperationNotAllowed"
	CodeOperationNotFound         = "OperationNotFound"
	CodeOperationTimedOut         = "OperationTimedOut"
	CodeParentResourceNotFound    = "ParentResourceNotFound"
	CodePreconditionFailed        = "PreconditionFailed"
	CodePropertyChangeNotAllowed  = "PropertyChangeNotAllowed"
	CodeRequestTooLarge           = "RequestContentTooLarge"
	CodeResourceGroupBeingDeleted = "ResourceGroupBeingDeleted"
	CodeResourceGroupNotFound     = "ResourceGroupNotFound"
	CodeResourceNotFound          = "ResourceNotFound"
	CodeServiceUnavailable        = "ServiceUnavailable"
	CodeSubscriptionNotFound      = "SubscriptionNotFound"
	CodeNameTaken                 = "NameAlreadyTaken"
	CodeInvalidLocation           = "InvalidLocation"
	CodeInvalidResourceLocation   = "InvalidResourceLocation"
	CodeLinkedResourceNotFound    = "LinkedInvalidPropertyId"
	CodeClusterAlreadyAttached    = "ClusterAlreadyAttached"
	CodeClusterNotFound           = "ClusterNotFound"
	CodeClusterNotReachable       = "ClusterNotReachable"
	CodeClusterPreconditions      = "ClusterDoesNotMeetRequirements"
	CodeKubernetesVersion         = "K8sVersionNotSupported"
	CodeNotEnoughCores            = "NotEnoughCores"
	CodeNotEnoughNodes            = "NotEnoughNodes"
	CodeDeleteOfAttached          = "DeleteOfAttachedClusterNotAllowed"
	CodeAttachmentSuperseded      = "AttachmentSuperseded"
	CodeClusterCreationFailed     = "ClusterCreationFailed"
	CodeRegistryNotUsable         = "RegistryNotUsable"
)

// Code describes one code for the reference page.
type Code struct {
	Status int    // HTTP status of an answer that carries it
	When   string // when it is given
}

var codes = map[string]Code{
	CodeAuthenticationFailed:      {http.StatusUnauthorized, "The request carries no valid token."},
	CodeAuthorizationFailed:       {http.StatusForbidden, "The caller has no role that allows the action at this scope."},
	CodeBadRequest:                {http.StatusBadRequest, "The request breaks a rule that no narrower code names."},
	CodeConflict:                  {http.StatusConflict, "The resource is in a state in which the request is not possible."},
	CodeInternalServerError:       {http.StatusInternalServerError, "A fault of Berth's own; the log has the details under the request ID."},
	CodeInvalidAPIVersion:         {http.StatusBadRequest, "The api-version is malformed."},
	CodeInvalidContentType:        {http.StatusUnsupportedMediaType, "The body is not declared as JSON."},
	CodeInvalidParameter:          {http.StatusBadRequest, "A field breaks a rule; the message names the field, the rule and the fix."},
	CodeInvalidRequestContent:     {http.StatusBadRequest, "The body is not valid JSON, or not of the resource's shape."},
	CodeInvalidResourceID:         {http.StatusBadRequest, "A resource ID is malformed."},
	CodeInvalidResourceName:       {http.StatusBadRequest, "A resource's name breaks the rule for its type."},
	CodeInvalidResourceType:       {http.StatusNotFound, "The provider has no such resource type."},
	CodeInvalidSubscriptionID:     {http.StatusBadRequest, "The subscription ID is not a GUID."},
	CodeLocationNotAvailable:      {http.StatusBadRequest, "The location is not an Azure region."},
	CodeMethodNotAllowed:          {http.StatusMethodNotAllowed, "The resource type has no such verb."},
	CodeMissingAPIVersion:         {http.StatusBadRequest, "The request has no api-version."},
	CodeNoRegisteredProvider:      {http.StatusBadRequest, "The api-version is older than the first one of the resource type."},
	CodeInvalidResourceNamespace:  {http.StatusNotFound, "There is no such resource provider."},
	CodeNotSupported:              {http.StatusBadRequest, "Azure has this, Berth does not; the message names it."},
	CodeOperationCanceled:         {http.StatusConflict, "A later request took the operation's place."},
	CodeOperationNotAllowed:       {http.StatusConflict, "Another operation on the resource is in progress, or its state forbids the request."},
	CodeOperationNotFound:         {http.StatusNotFound, "There is no such operation, or it ended long ago."},
	CodeOperationTimedOut:         {http.StatusGatewayTimeout, "An operation did not finish within its deadline; the message says what it waited for."},
	CodeParentResourceNotFound:    {http.StatusNotFound, "The resource that this one is nested in does not exist."},
	CodePreconditionFailed:        {http.StatusPreconditionFailed, "If-Match or If-None-Match does not hold."},
	CodePropertyChangeNotAllowed:  {http.StatusBadRequest, "A field cannot change once the resource exists."},
	CodeRequestTooLarge:           {http.StatusRequestEntityTooLarge, "The body is larger than 4 MiB."},
	CodeResourceGroupBeingDeleted: {http.StatusConflict, "The resource group is being deleted."},
	CodeResourceGroupNotFound:     {http.StatusNotFound, "There is no such resource group."},
	CodeResourceNotFound:          {http.StatusNotFound, "There is no such resource."},
	CodeServiceUnavailable:        {http.StatusServiceUnavailable, "Berth can not serve the request now, for instance because it is stopping."},
	CodeSubscriptionNotFound:      {http.StatusNotFound, "There is no such subscription."},
	CodeNameTaken:                 {http.StatusConflict, "The name is unique in a wider scope, and taken there."},
	CodeInvalidLocation:           {http.StatusBadRequest, "The location is missing."},
	CodeInvalidResourceLocation:   {http.StatusConflict, "The resource exists in another location."},
	CodeLinkedResourceNotFound:    {http.StatusBadRequest, "A resource that this one refers to does not exist."},
	CodeClusterAlreadyAttached:    {http.StatusConflict, "The cluster is attached to this workspace already (A5)."},
	CodeClusterNotFound:           {http.StatusBadRequest, "The cluster is gone, or never was (C5)."},
	CodeClusterNotReachable:       {http.StatusBadGateway, "The cluster's API server does not answer."},
	CodeClusterPreconditions:      {http.StatusBadRequest, "The cluster does not meet what attaching needs; all unmet conditions are listed (A4, R3)."},
	CodeKubernetesVersion:         {http.StatusBadRequest, "The Kubernetes version is outside the supported range (A4)."},
	CodeNotEnoughCores:            {http.StatusBadRequest, "The nodes have fewer vCPUs in all than the purpose needs (R3)."},
	CodeNotEnoughNodes:            {http.StatusBadRequest, "The cluster has fewer nodes than the purpose needs."},
	CodeDeleteOfAttached:          {http.StatusBadRequest, "A cluster that was attached can be detached, not deleted (A6)."},
	CodeAttachmentSuperseded:      {http.StatusConflict, "A later attachment took the cluster (A5)."},
	CodeClusterCreationFailed:     {http.StatusBadRequest, "The managed cluster of a compute could not be created."},
	CodeRegistryNotUsable:         {http.StatusBadGateway, "The registry that images go to does not answer, or refuses Berth; the message says why and what to do."},
}

// Codes returns the whole table.
func Codes() map[string]Code {
	out := make(map[string]Code, len(codes))
	for k, v := range codes {
		out[k] = v
	}
	return out
}

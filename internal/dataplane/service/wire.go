package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/store"
)

// flatten makes this API's document of the kernel's.
func flatten(doc *resource.Document[WebService]) (map[string]any, error) {
	data, err := json.Marshal(doc.Properties)
	if err != nil {
		return nil, err
	}
	var flat map[string]any
	if err := dataplane.Unmarshal(data, &flat); err != nil {
		return nil, err
	}
	for _, k := range []string{"keys", "registryAccess", "state", "scoringUri", "deployed", "provisioningState"} {
		delete(flat, k)
	}
	tags := make(map[string]any, len(doc.Tags))
	for k, v := range doc.Tags {
		tags[k] = v
	}
	flat["kvTags"] = tags
	return flat, nil
}

// wire is a web service as the API shows it. expand adds its models.
func (s *Service) wire(tx store.ReadTx, row *store.Resource, expand bool) (map[string]any, error) {
	doc, err := resource.ReadDocument[WebService](row)
	if err != nil {
		return nil, err
	}
	w := &doc.Properties
	rec, err := resource.RecordOf(row)
	if err != nil {
		return nil, err
	}
	id := armid.MustParse(row.ID)
	common := map[string]any{
		"computeName": w.ComputeName, "createdTime": dataplane.Timestamp(row.Created.At), "updatedTime": dataplane.Timestamp(row.Modified.At), "state": state(row, w),
		"authEnabled": *w.AuthEnabled, "aadAuthEnabled": *w.AADAuthEnabled, "deploymentType": onlyDeployment, "operationId": row.OperationID,
		"namespace": w.Namespace, "createdBy": map[string]any{"userObjectId": row.Created.By, "userName": row.Created.By},
	}
	if rec.Error != nil {
		common["error"] = errorWire(rec.Error)
	}
	if w.ComputeType != kindEndpoint {
		out, err := s.versionWire(tx, id.Parent(), "", &w.Version, w.Deployed[""], expand)
		if err != nil {
			return nil, err
		}
		add(out, common)
		add(out, map[string]any{"id": id.Name(), "name": id.Name(), "computeType": kindService, "kvTags": doc.Tags, "scoringUri": nullable(w.ScoringURI), "swaggerUri": swagger(w.ScoringURI)})
		return out, nil
	}
	versions := map[string]any{}
	for name, v := range w.all() {
		out, err := s.versionWire(tx, id.Parent(), name, v, w.Deployed[name], expand)
		if err != nil {
			return nil, err
		}
		add(out, common)
		uri := ""
		if w.ScoringURI != "" {
			uri = strings.TrimSuffix(w.ScoringURI, "/score") + "/version/" + name + "/score"
		}
		add(out, map[string]any{
			"id": name, "name": name, "computeType": kindService, "kvTags": orEmpty(v.Tags), "scoringUri": nullable(uri), "swaggerUri": swagger(uri),
			"isDefault": v.IsDefault, "trafficPercentile": v.TrafficPercentile, "type": v.VersionType,
		})
		versions[name] = out
	}
	out := map[string]any{
		"id": id.Name(), "name": id.Name(), "computeType": kindEndpoint, "kvTags": doc.Tags, "description": nullable(w.Description), "properties": orEmpty(w.Properties),
		"appInsightsEnabled": w.AppInsights != nil && *w.AppInsights, "scoringUri": nullable(w.ScoringURI), "swaggerUri": swagger(w.ScoringURI), "versions": versions,
	}
	add(out, common)
	return out, nil
}

func add(to, from map[string]any) {
	for k, v := range from {
		to[k] = v
	}
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func swagger(scoring string) any {
	if scoring == "" {
		return nil
	}
	return strings.TrimSuffix(scoring, "/score") + "/swagger.json"
}

// versionWire is what a web service and a version of an endpoint have in common.
func (s *Service) versionWire(tx store.ReadTx, workspace armid.ID, name string, v *Version, d *Deployed, expand bool) (map[string]any, error) {
	if v.AutoScaler == nil { // an endpoint's own part
		v.complete()
	}
	a, r := v.AutoScaler, v.Resources
	out := map[string]any{
		"description": nullable(v.Description), "properties": orEmpty(v.Properties), "appInsightsEnabled": *v.AppInsights, "numReplicas": v.NumReplicas,
		"autoScaler":                        map[string]any{"autoscaleEnabled": a.Enabled, "minReplicas": a.MinReplicas, "maxReplicas": a.MaxReplicas, "targetUtilization": a.Utilization, "refreshPeriodInSeconds": a.Refresh},
		"containerResourceRequirements":     map[string]any{"cpu": r.CPU, "cpuLimit": r.CPULimit, "memoryInGB": r.Memory, "memoryInGBLimit": r.MemoryLimit, "gpu": r.GPU},
		"dataCollection":                    map[string]any{"eventHubEnabled": false, "storageEnabled": false},
		"maxConcurrentRequestsPerContainer": v.MaxConcurrent, "maxQueueWaitMs": v.MaxQueueWaitMS, "scoringTimeoutMs": v.ScoringTimeoutMS,
		"livenessProbeRequirements": map[string]any{
			"initialDelaySeconds": v.Liveness.InitialDelay, "periodSeconds": v.Liveness.Period, "failureThreshold": v.Liveness.Failure,
			"successThreshold": v.Liveness.Success, "timeoutSeconds": v.Liveness.Timeout,
		},
	}
	if d != nil {
		status := map[string]any{"desiredReplicas": d.Desired, "updatedReplicas": d.Updated, "availableReplicas": d.Available, "error": nil}
		if e := new(armerr.Error); len(d.Error) > 0 && json.Unmarshal(d.Error, e) == nil {
			status["error"] = errorWire(e)
		}
		out["deploymentStatus"] = status
	}
	if v.Image == nil {
		return out, nil
	}
	out["environmentImageRequest"] = v.Image
	if !expand {
		return out, nil
	}
	models := []any{}
	for _, id := range v.Image.ModelIDs {
		row, err := tx.Resource(workspace.Child("models", id).Key())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := model.Wire(row)
		if err != nil {
			return nil, err
		}
		models = append(models, m)
	}
	out["models"] = models
	return out, nil
}

// errorWire is an error as this API's objects have it. A deadline that passed has a name and a first sentence of its own here.
func errorWire(e *armerr.Error) map[string]any {
	status := http.StatusBadRequest
	if e.Code == armerr.CodeOperationTimedOut {
		status = http.StatusGatewayTimeout
		e = &armerr.Error{Code: "DeploymentTimedOut", Message: "Timed out waiting for AKS deployment to complete. " + e.Message, Details: e.Details}
	}
	details := []any{}
	for _, d := range e.Details {
		details = append(details, map[string]any{"code": d.Code, "message": d.Message, "target": nullable(d.Target)})
	}
	if len(details) == 0 {
		details = append(details, map[string]any{"code": e.Code, "message": e.Message})
	}
	return map[string]any{"code": e.Code, "statusCode": status, "message": e.Message, "details": details}
}

func operationWire(r *dataplane.Request, op *store.Operation, row *store.Resource, offset int) map[string]any {
	kind := map[string]string{"create": "Create", "update": "Update", "delete": "Delete"}[op.Kind]
	state := map[string]string{resource.StateSucceeded: "Succeeded", resource.StateFailed: "Failed", resource.StateCanceled: "Cancelled"}[op.Status]
	if state == "" {
		state = "Running"
	}
	out := map[string]any{
		"id": op.ID, "operationType": kind + "Service", "state": state, "createdTime": dataplane.Timestamp(op.Start), "endTime": nil, "error": nil,
		"resourceLocation": "/services/" + armid.MustParse(op.ResourceID).Name(), "operationLog": "get_logs()", "parentRequestId": op.ID, "operationRunInfo": nil,
	}
	if op.End != nil {
		out["endTime"] = dataplane.Timestamp(*op.End)
	}
	if len(op.Error) > 0 {
		e := &armerr.Error{}
		if json.Unmarshal(op.Error, e) == nil {
			out["error"] = errorWire(e)
			if e.Code == armerr.CodeOperationTimedOut {
				out["state"] = "TimedOut"
			}
		}
	}
	sub, log := "DeployService", ""
	if row != nil {
		if rec, err := resource.RecordOf(row); err == nil {
			if mem, err := recall(rec.Data); err == nil && mem.Operation == op.ID {
				if !mem.Submitted {
					sub = "BuildEnvironment"
				}
				for _, line := range mem.Lines {
					log += line + "#"
				}
			}
		}
	}
	out["operationDetails"] = map[string]any{"subOperationType": sub, "subOperationState": out["state"]}
	if text := []rune(log); offset < len(text) { // clients count characters
		out["streamingOperationLog"] = string(text[offset:])
	} else {
		out["streamingOperationLog"] = ""
	}
	return out
}

package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/store"
)

// each calls fn for the web services of a workspace, those on their way out included.
func each(tx store.ReadTx, workspace armid.ID, fn func(*store.Resource, *resource.Document[WebService])) error {
	rows, _, err := tx.Resources(store.Query{Parent: workspace.Key(), Type: strings.ToLower(Type)})
	if err != nil {
		return err
	}
	for _, row := range rows {
		doc, err := resource.ReadDocument[WebService](row)
		if err != nil {
			return err
		}
		fn(row, doc)
	}
	return nil
}

func contains(list []string, s string) bool {
	return slices.ContainsFunc(list, func(e string) bool { return strings.EqualFold(e, s) })
}

// all are the versions in the order of their names; a web service that is no endpoint has one without a name.
func (w *WebService) all() iter.Seq2[string, *Version] {
	return func(yield func(string, *Version) bool) {
		if w.ComputeType != kindEndpoint {
			yield("", &w.Version)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(w.Versions)) {
			if v := w.Versions[name]; !yield(name, &v) {
				return
			}
		}
	}
}

// workloadName is what a version is called in the cluster.
func workloadName(service, version string) string {
	if version == "" {
		return service
	}
	return service + "-" + version
}

func or[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// complete fills in the original's defaults.
func (v *Version) complete() {
	if v.AutoScaler == nil {
		v.AutoScaler = &AutoScaler{}
	}
	a := v.AutoScaler
	or(&a.Enabled, v.NumReplicas == nil)
	if *a.Enabled {
		or(&a.MinReplicas, 1)
		or(&a.MaxReplicas, max(route.DefaultMaxReplicas, *a.MinReplicas))
		or(&a.Utilization, route.DefaultUtilization)
		or(&a.Refresh, 1)
	} else {
		or(&v.NumReplicas, 1)
	}
	if v.Resources == nil {
		v.Resources = &Resources{}
	}
	or(&v.Resources.CPU, 0.1)
	or(&v.Resources.Memory, 0.5)
	or(&v.Resources.GPU, 0)
	or(&v.AppInsights, false)
	or(&v.MaxConcurrent, 1)
	or(&v.MaxQueueWaitMS, int(route.DefaultQueueWait.Milliseconds()))
	or(&v.ScoringTimeoutMS, int(route.DefaultTimeout.Milliseconds()))
	if v.Liveness == nil {
		v.Liveness = &Liveness{}
	}
	or(&v.Liveness.InitialDelay, 310)
	or(&v.Liveness.Period, 10)
	or(&v.Liveness.Failure, 3)
	or(&v.Liveness.Success, 1)
	or(&v.Liveness.Timeout, 2)
}

func (s *Service) admit(ctx context.Context, d *resource.Draft[WebService]) error {
	w := &d.New.Properties
	or(&w.AADAuthEnabled, false)
	or(&w.AuthEnabled, !*w.AADAuthEnabled)
	if *w.AuthEnabled && *w.AADAuthEnabled {
		d.Fail("aadAuthEnabled", "keys and tokens exclude each other. Set auth_enabled to False to use tokens.")
	}
	if w.ComputeType == kindEndpoint {
		if err := s.admitVersions(d); err != nil {
			return err
		}
	} else {
		if len(w.Versions) > 0 {
			d.Fail("versions", "only an AksEndpoint has versions.")
		}
		w.Version.complete()
		if err := s.check(d, "", &w.Version); err != nil {
			return err
		}
	}
	if v, ok := d.New.Tags[TagMaxSurge]; ok && v != "0" && v != "1" {
		d.Fail("kvTags."+TagMaxSurge, "%q is neither 0 (an update ends an old pod before it starts a new one) nor 1 (it starts the new one first). Set one of the two, or leave the tag out.", v)
	}
	if err := checkNames(d); err != nil {
		return err
	}
	return s.checkPlace(d)
}

const (
	frontEndPrefix  = "azureml-fe" // of the front end's objects in the namespace
	longestWorkload = 63           // characters in the name of a Kubernetes Service
)

// checkNames makes sure that every version has a name of its own in the cluster.
func checkNames(d *resource.Draft[WebService]) error {
	w, taken := &d.New.Properties, map[string]string{}
	err := each(d.Tx, d.ID.Parent(), func(row *store.Resource, doc *resource.Document[WebService]) {
		if row.Key == d.ID.Key() {
			return
		}
		other := armid.MustParse(row.ID).Name()
		for v := range doc.Properties.all() {
			taken[workloadName(other, v)] = other
		}
	})
	if err != nil {
		return err
	}
	for v := range w.all() {
		name, at := workloadName(d.ID.Name(), v), "name"
		if v != "" {
			at = "versions." + v + ".name"
		}
		switch {
		case strings.HasPrefix(name, frontEndPrefix):
			d.Fail(at, "names that begin with %s are those of the front end. Choose another name.", frontEndPrefix)
		case len(name) > longestWorkload:
			d.Fail(at, "in the cluster the version is called %s, which has %d characters; Kubernetes allows %d. Choose a shorter name for the version or the endpoint.", name, len(name), longestWorkload)
		case taken[name] != "":
			d.Fail(at, "in the cluster it is called %s, and so is a version of the web service '%s'. Choose another name.", name, taken[name])
		}
	}
	return nil
}

// ownless are the fields that versions have and their endpoint has not, with whether one has it for itself.
func (v *Version) ownless() map[string]bool {
	return map[string]bool{
		"environmentImageRequest": v.Image != nil, "numReplicas": v.NumReplicas != nil, "autoScaler": v.AutoScaler != nil, "containerResourceRequirements": v.Resources != nil,
		"dataCollection": v.DataCollection != nil, "maxConcurrentRequestsPerContainer": v.MaxConcurrent != nil, "maxQueueWaitMs": v.MaxQueueWaitMS != nil, "scoringTimeoutMs": v.ScoringTimeoutMS != nil,
		"livenessProbeRequirements": v.Liveness != nil, "storageInitEnabled": v.StorageInit != nil, "trafficPercentile": v.TrafficPercentile != nil, "isDefault": v.IsDefault != nil, "type": v.VersionType != "",
	}
}

func (s *Service) admitVersions(d *resource.Draft[WebService]) error {
	w := &d.New.Properties
	if d.Creating() || d.Old.Properties.ComputeType == kindEndpoint {
		own := w.Version.ownless()
		for _, field := range slices.Sorted(maps.Keys(own)) {
			if own[field] {
				d.Fail(field, "an endpoint has no %s of its own; its versions have. Set it at versions.{version}.%s.", field, field)
			}
		}
	}
	if len(w.Versions) == 0 && d.Creating() {
		d.Fail("versions", "an endpoint begins with one version.")
	}
	if len(w.Versions) > route.MaxVersions {
		d.Fail("versions", "an endpoint has at most %d versions; this one would have %d.", route.MaxVersions, len(w.Versions))
	}
	total, defaults, controls := 0, []string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(w.Versions)) {
		v := w.Versions[name]
		at := "versions." + name + "."
		if !versionName.MatchString(name) {
			d.Fail(at+"name", "%.100q is no name of a version: it has 1 to 32 lower-case letters, digits and dashes, begins with a letter, and ends with a letter or digit.", name)
		}
		v.complete()
		only := len(w.Versions) == 1
		or(&v.TrafficPercentile, map[bool]int{true: 100, false: 0}[only])
		or(&v.IsDefault, only)
		if v.VersionType == "" {
			v.VersionType = map[bool]string{true: "Control", false: "Treatment"}[only]
		}
		total += *v.TrafficPercentile
		if *v.IsDefault {
			defaults = append(defaults, name)
		}
		if v.VersionType == "Control" {
			controls = append(controls, name)
		}
		if err := s.check(d, at, &v); err != nil {
			return err
		}
		w.Versions[name] = v
	}
	if total > 100 {
		d.Fail("versions", "the traffic percentiles add up to %d; they are at most 100 together. What they leave over goes to the default version.", total)
	}
	switch {
	case len(w.Versions) > 0 && len(defaults) == 0:
		d.Fail("versions", "no version is the default one, which gets what the traffic percentiles leave over. Make another version the default one first (update_version with is_default=True), then take this one away.")
	case len(defaults) > 1:
		d.Fail("versions", "exactly one version is the default one; here are %d (%s). Set is_default on one.", len(defaults), strings.Join(defaults, ", "))
	}
	if len(controls) > 1 {
		d.Fail("versions", "at most one version is of type Control; here are %d (%s).", len(controls), strings.Join(controls, ", "))
	}
	return nil
}

// check holds one version against its rules.
func (s *Service) check(d *resource.Draft[WebService], at string, v *Version) error {
	a, r := v.AutoScaler, v.Resources
	switch {
	case *a.Enabled && v.NumReplicas != nil:
		d.Fail(at+"numReplicas", "the number of replicas is fixed, or the autoscaler chooses it. Leave one of the two out.")
	case *a.Enabled && *a.MinReplicas > *a.MaxReplicas:
		d.Fail(at+"autoScaler.minReplicas", "%d is more than maxReplicas, %d.", *a.MinReplicas, *a.MaxReplicas)
	}
	if r.CPULimit != nil && *r.CPULimit > 0 && *r.CPULimit < *r.CPU {
		d.Fail(at+"containerResourceRequirements.cpuLimit", "%g is less than cpu, %g.", *r.CPULimit, *r.CPU)
	}
	if r.MemoryLimit != nil && *r.MemoryLimit > 0 && *r.MemoryLimit < *r.Memory {
		d.Fail(at+"containerResourceRequirements.memoryInGBLimit", "%g is less than memoryInGB, %g.", *r.MemoryLimit, *r.Memory)
	}
	if v.Image == nil {
		d.Fail(at+"environmentImageRequest", "the field is required: Model.deploy sends it.")
		return nil
	}
	switch {
	case len(v.Image.Assets) > 0 && (len(v.Image.Environment) == 0 || string(v.Image.Environment) == "null"):
		d.Fail(at+"environmentImageRequest.environment", "the field is required with an entry script. Give InferenceConfig an environment: Berth has no default one.")
	case len(v.Image.Assets) > 0:
	case len(v.Image.ModelIDs) == 0:
		d.Fail(at+"environmentImageRequest.modelIds", "there is nothing to run: name models, or give an entry script.")
	case len(v.Image.ModelIDs) > 1:
		d.Fail(at+"environmentImageRequest.modelIds", "without an entry script exactly one model is deployed; here are %d.", len(v.Image.ModelIDs))
	}
	for _, a := range v.Image.Assets {
		if id, ok := strings.CutPrefix(a.URL, artifactURL); ok {
			err := artifact.Available(d.Tx, d.ID.Parent(), artifact.ID(id))
			var e *armerr.Error
			if errors.As(err, &e) {
				d.FailWith(e)
			} else if err != nil {
				return err
			}
		}
	}
	checkVariables(d, at+"environmentImageRequest.environment.environmentVariables", v.Image.Environment)
	for i, id := range v.Image.ModelIDs {
		c, err := s.Models.Load(d.Tx, d.ID.Parent(), id)
		var e *armerr.Error
		if errors.As(err, &e) {
			d.Fail(fmt.Sprintf("%senvironmentImageRequest.modelIds.%d", at, i), "%s Model.list(ws) shows those that there are.", e.Message)
			continue
		}
		if err == nil && len(v.Image.Assets) == 0 {
			if err := noCode(c.Model); err != nil {
				d.Fail(at+"environmentImageRequest", "%s", err)
			}
		}
	}
	return nil
}

// checkVariables holds an environment's variables against what containers can have. What else may be wrong with the
// environment the build says.
func checkVariables(d *resource.Draft[WebService], at string, environment json.RawMessage) {
	var env struct {
		EnvironmentVariables map[string]string `json:"environmentVariables"`
	}
	if len(environment) == 0 || json.Unmarshal(environment, &env) != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(env.EnvironmentVariables)) {
		switch {
		case len(validation.IsRelaxedEnvVarName(name)) > 0:
			d.Fail(at, "%.100q is no name of a variable: it has printable ASCII characters other than =.", name)
		case strings.ContainsRune(env.EnvironmentVariables[name], 0):
			d.Fail(at, "the value of %.100q has a NUL character, which ends a variable.", name)
		}
	}
}

// checkPlace holds the compute against what a deployment needs.
func (s *Service) checkPlace(d *resource.Draft[WebService]) error {
	w := &d.New.Properties
	if w.ComputeName == "" {
		return nil // the schema says so
	}
	id := d.ID.Parent().Child("computes", w.ComputeName)
	row, err := d.Tx.Resource(id.Key())
	if errors.Is(err, store.ErrNotFound) {
		e := armerr.New(armerr.CodeResourceNotFound, "Compute Resource %s doesn't exist. Attach or create it first; the workspace's computes are listed by: az ml computetarget list.", w.ComputeName)
		e.Details = []*armerr.Error{{Code: "NotFoundComputeResource", Message: e.Message, Target: "computeName"}}
		return e
	}
	if err != nil {
		return err
	}
	if d.Creating() && (row.State != resource.StateSucceeded || row.DeletedAt != nil) {
		e := armerr.New(armerr.CodeBadRequest, "Compute resource with Id: %s is not in Succeeded state. Compute provisioning state: %s", w.ComputeName, row.State)
		e.Details = []*armerr.Error{{Code: "ComputeResourceNotCreated", Message: e.Message, Target: "computeName"}}
		return e
	}
	return nil
}

// state is a web service's state as clients know it.
func state(row *store.Resource, w *WebService) string {
	switch {
	case row.State == resource.StateCreating || row.State == resource.StateUpdating || row.State == resource.StateDeleting:
		return "Transitioning"
	case w.State != "":
		return w.State
	case row.State == resource.StateFailed:
		return "Failed"
	}
	return "Healthy"
}

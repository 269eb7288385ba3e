package armhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// pollAfter is how soon a client is asked to poll again, in whole seconds and, for those
// that read it (azcore reads retry-after-ms first), in milliseconds: work takes seconds here,
// not minutes.
const (
	pollAfter   = "1"
	pollAfterMS = "300"
)

// resultsPath is the path segment of the older, Location style of polling.
const resultsPath = "operationresults"

// polling adds the headers that lead a client to the operation. Azure-AsyncOperation is
// there for every asynchronous write; Location where the answer is 202.
func (r *request) polling(t *resource.Type, op *store.Operation, accepted bool) {
	if op == nil {
		return
	}
	h := r.w.Header()
	h.Set("Azure-AsyncOperation", r.operationURL(t.Namespace, op, t.OperationsPath))
	if accepted {
		h.Set("Location", r.operationURL(t.Namespace, op, resultsPath))
	}
	h.Set("Retry-After", pollAfter)
	h.Set("retry-after-ms", pollAfterMS)
}

func (r *request) operationURL(namespace string, op *store.Operation, segment string) string {
	location := op.Location
	if location == "" {
		location = "global"
	}
	return r.base() + "/subscriptions/" + op.Subscription + "/providers/" + namespace + "/locations/" + location + "/" + segment + "/" + op.ID +
		"?api-version=" + url.QueryEscape(r.version)
}

// isOperation recognises …/providers/{namespace}/locations/{location}/{segment}/{GUID}.
func isOperation(p armid.Path) bool {
	if p.Tail != "" || p.ID.Namespace() == "" {
		return false
	}
	_, rest, _ := strings.Cut(strings.ToLower(p.ID.Type()), "/")
	switch rest {
	case "locations/operations", "locations/operationstatuses", "locations/operationresults",
		"locations/computeoperationsstatus", "locations/workspaceoperationsstatus":
		return true
	}
	return false
}

func (r *request) operation() error {
	if r.Method != http.MethodGet {
		return notAllowed(r, "An operation", http.MethodGet)
	}
	m := r.server.Manager
	var op *store.Operation
	var row *store.Resource
	err := m.Store.View(r.Context(), func(tx store.ReadTx) error {
		var err error
		if op, err = tx.Operation(strings.ToLower(r.path.ID.Name())); err != nil {
			return err
		}
		if row, err = tx.Resource(op.ResourceKey); errors.Is(err, store.ErrNotFound) {
			row, err = nil, nil
		}
		return err
	})
	known := err == nil && strings.EqualFold(op.Subscription, r.path.ID.SubscriptionID()) && strings.EqualFold(op.Provider, r.path.ID.Namespace())
	if errors.Is(err, store.ErrNotFound) || err == nil && !known {
		return armerr.New(armerr.CodeOperationNotFound, "There is no operation '%s' here. Operations are forgotten a week after their end.", r.path.ID.Name())
	}
	if err != nil {
		return err
	}
	id := armid.MustParse(op.ResourceID)
	if err := r.require(id.Type()+"/read", id); err != nil {
		return err
	}
	if !resource.Final(op.Status) {
		r.w.Header().Set("Retry-After", pollAfter)
		r.w.Header().Set("retry-after-ms", pollAfterMS)
	}
	if strings.EqualFold(lastType(r.path.ID), resultsPath) {
		return r.operationResult(op, row)
	}
	return r.reply(http.StatusOK, operationBody(r.path.ID, op, row, r.server.Manager.Now()))
}

func lastType(id armid.ID) string {
	t := id.Type()
	return t[strings.LastIndexByte(t, '/')+1:]
}

// operationBody is ARM's operation status. Its properties say what the work waits for,
// so that a client can show progress.
func operationBody(id armid.ID, op *store.Operation, row *store.Resource, now time.Time) map[string]any {
	out := map[string]any{"id": id.String(), "name": op.ID, "status": op.Status, "startTime": resource.Timestamp(op.Start)}
	if op.End != nil {
		out["endTime"] = resource.Timestamp(*op.End)
	}
	if len(op.Error) > 0 {
		out["error"] = op.Error
	}
	if resource.Final(op.Status) {
		return out
	}
	if row != nil && row.OperationID == op.ID {
		if rec, err := resource.RecordOf(row); err == nil && rec.Waiting != "" {
			out["properties"] = map[string]any{"waitingFor": rec.Waiting, "elapsed": now.Sub(op.Start).Round(time.Millisecond).String()}
		}
	}
	return out
}

// operationResult is the Location style: 202 while the work goes on, then the final answer of
// the original request.
func (r *request) operationResult(op *store.Operation, row *store.Resource) error {
	if !resource.Final(op.Status) {
		r.w.Header().Set("Location", r.base()+r.URL.RequestURI())
		return r.reply(http.StatusAccepted, nil)
	}
	if op.Status != resource.StateSucceeded {
		e := &armerr.Error{}
		if err := json.Unmarshal(op.Error, e); err != nil {
			return err
		}
		if e.HTTPStatus() >= http.StatusInternalServerError { // the status could be read; only the work failed
			e.Status = http.StatusConflict
		}
		return e
	}
	if op.Kind == "delete" || row == nil {
		return r.reply(http.StatusNoContent, nil)
	}
	m := r.server.Manager
	t, err := m.Registry.Find(row.Type)
	if err != nil {
		return err
	}
	version, err := t.Resolve(r.version)
	if err != nil {
		return err
	}
	var body map[string]any
	err = m.Store.View(r.Context(), func(tx store.ReadTx) error {
		body, err = m.View(tx, t, row, version)
		return err
	})
	if err != nil {
		return err
	}
	return r.reply(http.StatusOK, body)
}

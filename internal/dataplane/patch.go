package dataplane

import (
	"encoding/json"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/berthdev/berth/internal/arm/armerr"
)

// Patch applies the request's body, a JSON Patch (RFC 6902), to a document. A replacement
// of what is not there adds it: clients send replace for whatever they change. It returns the
// new document and the paths that the patch names.
func (r *Request) Patch(doc map[string]any) (map[string]any, []string, error) {
	var operations []map[string]json.RawMessage
	if err := r.Decode(&operations); err != nil {
		return nil, nil, err
	}
	var paths []string
	for _, op := range operations {
		var verb, path string
		if json.Unmarshal(op["op"], &verb) != nil || json.Unmarshal(op["path"], &path) != nil || !strings.HasPrefix(path, "/") {
			return nil, nil, armerr.New(armerr.CodeInvalidRequestContent, "The body is not a JSON Patch: a list of {\"op\", \"path\", \"value\"} whose paths begin with /.")
		}
		paths = append(paths, path)
		if verb == "replace" {
			op["op"] = json.RawMessage(`"add"`)
		}
	}
	normal, err := json.Marshal(operations)
	if err != nil {
		return nil, nil, err
	}
	patch, err := jsonpatch.DecodePatch(normal)
	if err != nil {
		return nil, nil, armerr.New(armerr.CodeInvalidRequestContent, "The body is not a JSON Patch: %s.", err)
	}
	before, err := json.Marshal(doc)
	if err != nil {
		return nil, nil, err
	}
	options := jsonpatch.NewApplyOptions()
	options.EnsurePathExistsOnAdd = true
	after, err := patch.ApplyWithOptions(before, options)
	if err != nil {
		return nil, nil, armerr.New(armerr.CodeBadRequest, "The patch does not fit the document: %s. It names: %s.", err, strings.Join(paths, ", "))
	}
	var out map[string]any
	err = Unmarshal(after, &out)
	return out, paths, err
}

// Matches reports whether labels have all that a filter asks for: names, or name=value, separated by commas.
func Matches(labels map[string]string, filter string) bool {
	if filter == "" {
		return true
	}
	for part := range strings.SplitSeq(filter, ",") {
		key, value, exact := strings.Cut(part, "=")
		have, ok := labels[key]
		if !ok || exact && have != value {
			return false
		}
	}
	return true
}

package dataplane

import (
	"encoding/json"
	"slices"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/berthdev/berth/internal/arm/armerr"
)

// Patch is a JSON Patch (RFC 6902). A replacement of what is not there adds it: clients send replace for
// whatever they change.
type Patch []operation

type operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  *string         `json:"from,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// What bounds the work of one patch.
const (
	maxOperations = 1000
	maxPatched    = 1 << 20  // bytes of the document that it makes: copies of copies grow fast
	maxWork       = 16 << 20 // bytes of documents that its operations go through, each the whole
)

// ReadPatch reads the request's body as a patch.
func (r *Request) ReadPatch() (Patch, error) {
	var p Patch
	if err := r.Decode(&p); err != nil {
		return nil, err
	}
	if len(p) > maxOperations {
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The patch has %d operations; send at most %d in one request.", len(p), maxOperations)
	}
	for _, op := range p {
		if !strings.HasPrefix(op.Path, "/") || op.From != nil && !strings.HasPrefix(*op.From, "/") {
			return nil, armerr.New(armerr.CodeInvalidRequestContent, "The body is not a JSON Patch: a list of {\"op\", \"path\", \"value\"} whose paths begin with /.")
		}
	}
	return p, nil
}

// Paths are what the patch changes.
func (p Patch) Paths() []string {
	var out []string
	for _, op := range p {
		out = append(out, op.Path)
		if op.Op == "move" && op.From != nil {
			out = append(out, *op.From)
		}
	}
	return out
}

// Adds reports whether the patch adds to a path. It can replace what is there, all the same: see Apply.
func (p Patch) Adds(path string) bool {
	return slices.ContainsFunc(p, func(op operation) bool { return op.Op == "add" && op.Path == path })
}

// Apply returns the document as the patch makes it.
func (p Patch) Apply(doc map[string]any) (map[string]any, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	options := jsonpatch.NewApplyOptions()
	options.SupportNegativeIndices = false
	// One operation at a time, so that the size of what they make of each other is known on the way.
	work := 0
	for _, op := range p {
		if work += len(data); work > maxWork {
			return nil, armerr.New(armerr.CodeRequestTooLarge, "The patch has too many operations for a document of %d bytes. Send them in several requests, or replace the field as a whole.", len(data))
		}
		if op.Op == "replace" {
			op.Op = "add"
		}
		if op.Op != "remove" && op.Op != "test" {
			if data, err = ensure(data, op.Path); err != nil {
				return nil, err
			}
		}
		one, err := json.Marshal(Patch{op})
		if err != nil {
			return nil, err
		}
		patch, err := jsonpatch.DecodePatch(one)
		if err != nil {
			return nil, armerr.New(armerr.CodeInvalidRequestContent, "The body is not a JSON Patch: %s.", err)
		}
		if data, err = patch.ApplyWithOptions(data, options); err != nil {
			return nil, armerr.New(armerr.CodeBadRequest, "The patch does not fit the document, at %q: %s. Read the document again and send a patch for what it is now.", op.Path, err)
		}
		if len(data) > maxPatched {
			return nil, armerr.New(armerr.CodeRequestTooLarge, "The patch makes a document of more than %d bytes. Send a smaller one.", maxPatched)
		}
	}
	var out map[string]any
	if err := Unmarshal(data, &out); err != nil {
		return nil, armerr.New(armerr.CodeBadRequest, "The patch makes something else than an object of the document.")
	}
	return out, nil
}

// ensure adds the objects that a path leads through and that are not there.
func ensure(data []byte, path string) ([]byte, error) {
	var doc map[string]any
	if err := Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	parts := strings.Split(path, "/")[1:]
	at, added := doc, false
	for _, part := range parts[:len(parts)-1] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		if at[part] == nil {
			at[part], added = map[string]any{}, true
		}
		next, ok := at[part].(map[string]any)
		if !ok {
			break
		}
		at = next
	}
	if !added {
		return data, nil
	}
	return json.Marshal(doc)
}

// Patch applies the request's body, a Patch, to a document. It returns the new document and the paths that
// the patch names.
func (r *Request) Patch(doc map[string]any) (map[string]any, []string, error) {
	p, err := r.ReadPatch()
	if err != nil {
		return nil, nil, err
	}
	after, err := p.Apply(doc)
	return after, p.Paths(), err
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

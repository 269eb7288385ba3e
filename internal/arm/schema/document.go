package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/berthdev/berth/internal/arm/armerr"
)

// Decode reads one JSON object, keeping numbers exact. Errors: *armerr.Error that says where
// the text stops being JSON.
func Decode(data []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The request has no body; send a JSON object.")
	}
	if !utf8.Valid(data) {
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The request's body is not valid UTF-8.")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		at := int64(len(data))
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = syntax.Offset
		}
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The request's body is not valid JSON at byte %d: %s.", at, strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The request's body has something after the JSON object, at byte %d. Send one object.", dec.InputOffset())
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, armerr.New(armerr.CodeInvalidRequestContent, "The request's body is %s; it must be a JSON object.", describe(v))
	}
	return m, nil
}

// Merge applies a JSON merge patch (RFC 7396) and returns the result; neither
// argument is changed.
func Merge(base, patch map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(patch))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range patch {
		if v == nil {
			delete(out, k)
			continue
		}
		if p, ok := v.(map[string]any); ok {
			b, _ := out[k].(map[string]any)
			out[k] = Merge(b, p)
			continue
		}
		out[k] = v
	}
	return out
}

// Overlay lays what Berth found over what a client wrote: objects merge, everything
// else in top wins. Lists of objects that have a name (node pools) merge by that name.
func Overlay(base, top map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(top))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range top {
		switch v := v.(type) {
		case map[string]any:
			b, _ := out[k].(map[string]any)
			out[k] = Overlay(b, v)
		case []any:
			b, _ := out[k].([]any)
			out[k] = overlayList(b, v)
		default:
			out[k] = v
		}
	}
	return out
}

func overlayList(base, top []any) []any {
	if len(base) == 0 {
		return top
	}
	byName := map[any]map[string]any{}
	for _, v := range top {
		m, ok := v.(map[string]any)
		if !ok || m["name"] == nil {
			return top
		}
		byName[m["name"]] = m
	}
	out := make([]any, 0, len(base))
	for _, v := range base {
		m, ok := v.(map[string]any)
		if !ok {
			return top
		}
		if t := byName[m["name"]]; t != nil {
			m = Overlay(m, t)
		}
		out = append(out, m)
	}
	return out
}

// Shape prepares a document for an answer: fields that the version does not have and
// secrets go, fields that clients insist on are null when absent.
func (s *Schema) Shape(doc any, version string) any {
	switch s.kind {
	case kindObject:
		m, ok := doc.(map[string]any)
		if !ok {
			return doc
		}
		out := make(map[string]any, len(m))
		for _, f := range s.fields {
			if f.rules.secret || !f.in(version) {
				continue
			}
			v, ok := m[f.name]
			if ok {
				out[f.name] = f.schema.Shape(v, version)
			} else if f.rules.always {
				out[f.name] = nil
			}
		}
		return out
	case kindList:
		list, ok := doc.([]any)
		if !ok {
			return doc
		}
		out := make([]any, len(list))
		for i, e := range list {
			out[i] = s.elem.Shape(e, version)
		}
		return out
	}
	return doc
}

// CarryOver adds to a document what an older api-version could not say: fields that the
// stored document has and the version lacks. A PUT through an old version thus loses
// nothing that a newer one added.
func (s *Schema) CarryOver(doc, stored map[string]any, version string) {
	for _, f := range s.fields {
		old, ok := stored[f.name]
		if !ok {
			continue
		}
		if !f.in(version) {
			doc[f.name] = old
			continue
		}
		a, aok := doc[f.name].(map[string]any)
		b, bok := old.(map[string]any)
		if f.schema.kind == kindObject && aok && bok {
			f.schema.CarryOver(a, b, version)
		}
	}
}

// Secrets takes the secret fields out of a document and returns them by path.
func (s *Schema) Secrets(doc map[string]any, path string) map[string]string {
	out := map[string]string{}
	for _, f := range s.fields {
		at := join(path, f.name)
		switch v := doc[f.name].(type) {
		case string:
			if f.rules.secret {
				out[at] = v
				delete(doc, f.name)
			}
		case map[string]any:
			if f.schema.kind == kindObject {
				for k, sv := range f.schema.Secrets(v, at) {
					out[k] = sv
				}
			}
		case nil:
			if f.rules.secret {
				delete(doc, f.name)
			}
		}
	}
	return out
}

// Changed returns a finding for every immutable field that differs.
func (s *Schema) Changed(doc, stored map[string]any, path string) []*armerr.Error {
	var out []*armerr.Error
	for _, f := range s.fields {
		at := join(path, f.name)
		a, b := doc[f.name], stored[f.name]
		if f.rules.immutable {
			if !same(a, b) {
				e := armerr.Field(at, "it cannot change once the resource exists; it is %s. Delete the resource and create it again, or keep the value.", show(b))
				e.Code = armerr.CodePropertyChangeNotAllowed
				out = append(out, e)
			}
			continue
		}
		am, aok := a.(map[string]any)
		bm, bok := b.(map[string]any)
		if f.schema.kind == kindObject && aok && bok {
			out = append(out, f.schema.Changed(am, bm, at)...)
		}
	}
	return out
}

// same compares values of immutable fields: IDs, names and regions have no case, and
// nothing equals emptiness.
func same(a, b any) bool {
	if empty(a) && empty(b) {
		return true
	}
	as, aok := a.(string)
	bs, bok := b.(string)
	if aok && bok {
		return strings.EqualFold(as, bs)
	}
	aj, _ := json.Marshal(a)
	bj, _ := json.Marshal(b)
	return bytes.Equal(aj, bj)
}

func show(v any) string {
	if v == nil {
		return "not set"
	}
	return fmt.Sprintf("%v", v)
}

// From is the schema of T.
func From[T any]() *Schema { return Of(reflect.TypeFor[T]()) }

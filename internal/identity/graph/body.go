package graph

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
)

// readBody decodes the request's body into the struct that v points to, whose fields are
// what the operation honours. Any other property is refused by name, unless it is empty:
// clients send many empty ones, and no setting at all is what Berth has, too.
func readBody(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &graphError{http.StatusRequestEntityTooLarge, "Request_BadRequest", "The body is too large."}
	} else if err != nil {
		return badRequest("The body could not be read.")
	}
	if len(data) == 0 {
		return nil // az leaves out the body of a PATCH that changes nothing
	}
	var properties map[string]any
	if err := json.Unmarshal(data, &properties); err != nil {
		return badRequest("The body is not a JSON object.")
	}
	if name := unknown(properties, reflect.TypeOf(v).Elem()); name != "" {
		return badRequest("Berth's directory does not have the property '%s'. Leave it out: it would have no effect.", name)
	}
	err = json.Unmarshal(data, v)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return badRequest("The property '%s' cannot be a JSON %s.", wrong.Field, wrong.Value)
	} else if err != nil { // a value that refuses its text: a time
		return badRequest("A value in the body is malformed: %s.", err.Error())
	}
	return nil
}

// unknown returns the path of the first property that has a value but no field in t.
func unknown(properties map[string]any, t reflect.Type) string {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		fields[f.Tag.Get("json")] = f.Type
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		field, known := fields[name]
		if inner, ok := properties[name].(map[string]any); ok {
			if field == nil || field.Kind() != reflect.Struct { // then nothing in it is known
				field = reflect.TypeFor[struct{}]()
			}
			if path := unknown(inner, field); path != "" {
				return name + "/" + path
			}
		} else if !known && !empty(properties[name]) {
			return name
		}
	}
	return ""
}

// empty reports whether a JSON value, not an object, sets nothing.
func empty(v any) bool {
	list, isList := v.([]any)
	return v == nil || v == false || v == "" || isList && len(list) == 0
}

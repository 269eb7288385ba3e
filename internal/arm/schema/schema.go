// Package schema derives from a Go struct what ARM needs to know about a document: which
// fields exist in which api-version, their types and rules, which are read-only, secret or
// fixed after creation. A resource type is thus described once, by its struct.
//
// Rules stand in the struct tag `arm`, separated by commas:
//
//	required          the field is present and not null
//	readonly          written by Berth; what a client sends is dropped, as ARM does
//	immutable         cannot change once the resource exists
//	secret            sealed in the store, never shown (strings only)
//	always            shown as null when there is no value, for clients that insist on the key
//	unsupported       known to Azure, not to Berth: refused by name unless empty
//	default=V         with unsupported: the one value that is accepted (several: V|W)
//	enum=A|B          one of these, whatever the case; stored in the spelling given here
//	min=N max=N       bounds of a number
//	minlen=N maxlen=N bounds of a string's, list's or map's length (maxlen defaults to 4096 for strings)
//	format=NAME       a named format: cidr, ipv4, armid, guid, hostname, pem
//	since=V until=V   api-versions (dates) that have the field, both included
package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
)

type kind int

const (
	kindAny kind = iota
	kindString
	kindInt
	kindFloat
	kindBool
	kindObject
	kindList
	kindMap
)

func (k kind) String() string {
	return [...]string{"any value", "a string", "an integer", "a number", "true or false", "an object", "a list", "an object of names and values"}[k]
}

// Schema is the description of one value.
type Schema struct {
	kind   kind
	fields []*field          // of an object, in declaration order
	byName map[string]*field // by lower-cased name
	elem   *Schema           // of a list or map
}

type field struct {
	name   string
	schema *Schema
	inline bool // a struct that is always there, not a pointer to one
	rules  rules
}

type rules struct {
	required, readonly, immutable, secret, always, unsupported bool
	defaults                                                   []string
	enum                                                       []string
	min, max                                                   *float64
	minlen, maxlen                                             int
	format                                                     string
	since, until                                               string
}

var rawType = reflect.TypeFor[json.RawMessage]()

// Of derives the schema of a type. It panics on a tag it does not know: that is a
// programming error and shows at start.
func Of(t reflect.Type) *Schema { return of(t, nil) }

func of(t reflect.Type, above []reflect.Type) *Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == rawType {
		return &Schema{kind: kindAny}
	}
	switch t.Kind() {
	case reflect.String:
		return &Schema{kind: kindString}
	case reflect.Bool:
		return &Schema{kind: kindBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &Schema{kind: kindInt}
	case reflect.Float32, reflect.Float64:
		return &Schema{kind: kindFloat}
	case reflect.Slice:
		return &Schema{kind: kindList, elem: of(t.Elem(), above)}
	case reflect.Map:
		return &Schema{kind: kindMap, elem: of(t.Elem(), above)}
	case reflect.Interface:
		return &Schema{kind: kindAny}
	case reflect.Struct:
		for _, a := range above {
			if a == t {
				panic(fmt.Sprintf("schema: %s contains itself", t))
			}
		}
		s := &Schema{kind: kindObject, byName: map[string]*field{}}
		s.addFields(t, append(above, t))
		return s
	}
	panic(fmt.Sprintf("schema: %s cannot be part of a document", t))
}

func (s *Schema) addFields(t reflect.Type, above []reflect.Type) {
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			s.addFields(sf.Type, above)
			continue
		}
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if name == "-" || !sf.IsExported() {
			continue
		}
		if name == "" {
			panic(fmt.Sprintf("schema: %s.%s has no json name", t, sf.Name))
		}
		f := &field{name: name, schema: of(sf.Type, above), rules: parseRules(t, sf), inline: sf.Type.Kind() == reflect.Struct}
		s.fields = append(s.fields, f)
		s.byName[strings.ToLower(name)] = f
	}
}

func parseRules(t reflect.Type, sf reflect.StructField) rules {
	r := rules{maxlen: -1}
	tag := sf.Tag.Get("arm")
	if tag == "" {
		return r
	}
	bad := func(item string, why any) {
		panic(fmt.Sprintf("schema: %s.%s: rule %q: %v", t, sf.Name, item, why))
	}
	for item := range strings.SplitSeq(tag, ",") {
		key, val, _ := strings.Cut(item, "=")
		num := func() *float64 {
			n, err := strconv.ParseFloat(val, 64)
			if err != nil {
				bad(item, err)
			}
			return &n
		}
		switch key {
		case "required":
			r.required = true
		case "readonly":
			r.readonly = true
		case "immutable":
			r.immutable = true
		case "secret":
			r.secret = true
		case "always":
			r.always = true
		case "unsupported":
			r.unsupported = true
		case "default":
			r.defaults = strings.Split(val, "|")
		case "enum":
			r.enum = strings.Split(val, "|")
		case "min":
			r.min = num()
		case "max":
			r.max = num()
		case "minlen":
			r.minlen = int(*num())
		case "maxlen":
			r.maxlen = int(*num())
		case "format":
			if _, ok := formats[val]; !ok {
				bad(item, "no such format")
			}
			r.format = val
		case "since":
			r.since = val
		case "until":
			r.until = val
		default:
			bad(item, "no such rule")
		}
	}
	return r
}

// in reports whether the field is part of an api-version. Versions compare as their
// dates; a preview has what the stable version of the same date has.
func (f *field) in(version string) bool {
	if version == "" {
		return true
	}
	date := version[:min(len(version), len("2006-01-02"))]
	return (f.rules.since == "" || date >= f.rules.since) && (f.rules.until == "" || date <= f.rules.until)
}

// names lists the field names of a version for an error message.
func (s *Schema) names(version string) string {
	var out []string
	for _, f := range s.fields {
		if f.in(version) && !f.rules.readonly {
			out = append(out, f.name)
		}
	}
	sort.Strings(out)
	const most = 12
	if len(out) > most {
		out = append(out[:most], "…")
	}
	return strings.Join(out, ", ")
}

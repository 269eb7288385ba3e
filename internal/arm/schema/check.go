package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/berthdev/berth/internal/arm/armerr"
)

const defaultMaxLen = 4096 // of a string, in characters

// Check holds a document that a client sent against the schema of an api-version. It
// returns the document with field names and enumerated values in their canonical
// spelling and without read-only fields, and every finding, not only the first. path
// is put before field names in messages, e.g. "properties". Missing required fields
// are found only where complete is set (a PUT; a PATCH is partial).
func (s *Schema) Check(doc any, version, path string, complete bool) (any, []*armerr.Error) {
	c := checker{version: version, complete: complete}
	out := c.value(s, rules{maxlen: -1}, doc, path)
	return out, c.findings
}

type checker struct {
	version  string
	complete bool
	findings []*armerr.Error
}

func (c *checker) fail(path, format string, args ...any) {
	c.findings = append(c.findings, armerr.Field(path, format, args...))
}

func (c *checker) wrongType(path string, want kind, got any) any {
	c.fail(path, "this is %s; it must be %s.", describe(got), want)
	return nil
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case json.Number, float64:
		return fmt.Sprintf("the number %v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("%T", v)
}

func (c *checker) value(s *Schema, r rules, v any, path string) any {
	if v == nil {
		return nil
	}
	switch s.kind {
	case kindAny:
		return v
	case kindBool:
		if _, ok := v.(bool); !ok {
			return c.wrongType(path, s.kind, v)
		}
		return v
	case kindString:
		str, ok := v.(string)
		if !ok {
			return c.wrongType(path, s.kind, v)
		}
		return c.string(r, str, path)
	case kindInt, kindFloat:
		return c.number(s.kind, r, v, path)
	case kindList:
		list, ok := v.([]any)
		if !ok {
			return c.wrongType(path, s.kind, v)
		}
		c.length(r, len(list), 1000, "entries", path)
		out := make([]any, len(list))
		for i, e := range list {
			out[i] = c.value(s.elem, rules{maxlen: -1, format: r.format, enum: r.enum}, e, fmt.Sprintf("%s[%d]", path, i))
		}
		return out
	case kindMap:
		m, ok := v.(map[string]any)
		if !ok {
			return c.wrongType(path, s.kind, v)
		}
		c.length(r, len(m), 1000, "entries", path)
		out := make(map[string]any, len(m))
		for _, k := range slices.Sorted(maps.Keys(m)) { // so that findings have one order
			out[k] = c.value(s.elem, rules{maxlen: -1}, m[k], path+"."+k)
		}
		return out
	default:
		m, ok := v.(map[string]any)
		if !ok {
			return c.wrongType(path, s.kind, v)
		}
		return c.object(s, m, path)
	}
}

func (c *checker) object(s *Schema, m map[string]any, path string) any {
	out := make(map[string]any, len(m))
	given := make(map[*field]bool, len(m)) // with a value, right or wrong
	for _, name := range slices.Sorted(maps.Keys(m)) {
		v, at := m[name], join(path, clip(name))
		f := s.byName[strings.ToLower(name)]
		if f == nil || !f.in(c.version) {
			if f != nil && f.rules.readonly {
				continue
			}
			c.fail(at, "there is no such field in api-version %s. Remove it, or use one of: %s.", c.version, s.names(c.version))
			continue
		}
		given[f] = given[f] || v != nil
		if f.rules.readonly {
			continue
		}
		if f.rules.unsupported {
			if !c.tolerable(f, v, at) || empty(v) {
				continue
			}
		}
		if _, dup := out[f.name]; dup {
			c.fail(at, "the field is given twice in different spellings. Keep one.")
			continue
		}
		out[f.name] = c.value(f.schema, f.rules, v, join(path, f.name))
	}
	if c.complete {
		for _, f := range s.fields {
			switch {
			case given[f] || !f.in(c.version):
			case f.rules.required:
				c.fail(join(path, f.name), "the field is required. Add it.")
			case f.inline: // for what is required inside
				c.object(f.schema, nil, join(path, f.name))
			}
		}
	}
	return out
}

// tolerable reports whether the value of an unsupported field asks for nothing that
// Berth lacks; if it does, that is a finding.
func (c *checker) tolerable(f *field, v any, path string) bool {
	if empty(v) {
		return true
	}
	for _, d := range f.rules.defaults {
		if strings.EqualFold(fmt.Sprint(v), d) {
			return true
		}
	}
	msg := "Berth does not support this setting"
	if len(f.rules.defaults) > 0 {
		msg += fmt.Sprintf(" with any other value than %s", strings.Join(f.rules.defaults, " or "))
	}
	c.findings = append(c.findings, &armerr.Error{Code: armerr.CodeNotSupported, Target: path, Message: path + ": " + msg + ". Remove it."})
	return false
}

// empty reports whether a value says nothing: null, false, 0, "", [], {} or an object of such.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		f, err := v.Float64()
		return err == nil && f == 0
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, e := range v {
			if !empty(e) {
				return false
			}
		}
		return true
	}
	return false
}

func (c *checker) length(r rules, n, most int, unit, path string) {
	if r.maxlen >= 0 {
		most = r.maxlen
	}
	if n > most {
		c.fail(path, "it has %d %s; the most is %d.", n, unit, most)
	}
	if n < r.minlen {
		c.fail(path, "it has %d %s; the fewest is %d.", n, unit, r.minlen)
	}
}

func (c *checker) string(r rules, s, path string) any {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		c.fail(path, "the text is not valid UTF-8 without NUL characters.")
		return nil
	}
	c.length(r, utf8.RuneCountInString(s), defaultMaxLen, "characters", path)
	if len(r.enum) > 0 {
		i := slices.IndexFunc(r.enum, func(e string) bool { return strings.EqualFold(e, s) })
		if i < 0 {
			c.fail(path, "%q is not one of the values %s.", clip(s), strings.Join(r.enum, ", "))
			return nil
		}
		return r.enum[i]
	}
	if r.format != "" && s != "" {
		if rule := formats[r.format](s); rule != "" {
			if r.secret {
				c.fail(path, "%s.", rule)
			} else {
				c.fail(path, "%q: %s.", clip(s), rule)
			}
			return nil
		}
	}
	return s
}

func (c *checker) number(k kind, r rules, v any, path string) any {
	n, ok := v.(json.Number)
	if !ok {
		return c.wrongType(path, k, v)
	}
	f, err := n.Float64()
	if err != nil || (k == kindInt && (f != math.Trunc(f) || math.Abs(f) > 1<<53)) {
		return c.wrongType(path, k, v)
	}
	if r.min != nil && f < *r.min || r.max != nil && f > *r.max {
		c.fail(path, "%v is out of range; %s.", n, bounds(r))
	}
	if k == kindInt {
		return json.Number(fmt.Sprintf("%d", int64(f))) // 3.0 and 3e0 are integers, too
	}
	return n
}

func bounds(r rules) string {
	switch {
	case r.min == nil:
		return fmt.Sprintf("the most is %v", *r.max)
	case r.max == nil:
		return fmt.Sprintf("the least is %v", *r.min)
	}
	return fmt.Sprintf("it must be between %v and %v", *r.min, *r.max)
}

func clip(s string) string {
	const most = 80
	if utf8.RuneCountInString(s) > most {
		return string([]rune(s)[:most]) + "…"
	}
	return s
}

func join(path, name string) string {
	if name == "" {
		name = `""`
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

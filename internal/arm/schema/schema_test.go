package schema

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type document struct {
	Location   string            `json:"location,omitempty" arm:"maxlen=10"`
	Tags       map[string]string `json:"tags,omitempty" arm:"maxlen=2"`
	ID         string            `json:"id,omitempty" arm:"readonly"`
	Properties properties        `json:"properties,omitempty"`
}

type properties struct {
	Kind    string          `json:"kind,omitempty" arm:"required,immutable,enum=Small|Large"`
	Count   *int            `json:"count,omitempty" arm:"min=1,max=5"`
	Ratio   *float64        `json:"ratio,omitempty" arm:"min=0,max=1"`
	On      *bool           `json:"on,omitempty"`
	Range   string          `json:"range,omitempty" arm:"format=cidr"`
	Key     string          `json:"key,omitempty" arm:"secret,format=pem"`
	Policy  json.RawMessage `json:"policy,omitempty" arm:"unsupported"`
	Access  string          `json:"access,omitempty" arm:"unsupported,default=Enabled|enabled"`
	Parts   []part          `json:"parts,omitempty" arm:"maxlen=2"`
	Names   []string        `json:"names,omitempty"`
	Note    string          `json:"note,omitempty" arm:"always"`
	New     string          `json:"new,omitempty" arm:"since=2024-01-01"`
	Dropped string          `json:"dropped,omitempty" arm:"until=2020-01-01"`
	State   string          `json:"state,omitempty" arm:"readonly"`
}

type part struct {
	Name string `json:"name,omitempty" arm:"required,minlen=2"`
	Size *int   `json:"size,omitempty" arm:"min=1"`
}

var s = From[document]()

func TestCheck(t *testing.T) {
	t.Parallel()
	const good = `"kind":"Small"`
	for _, tt := range []struct {
		name, doc string
		findings  []string // target, then a part of the message
	}{
		{"nothing wrong", `{"location":"here","properties":{"kind":"Small","count":3,"on":true,"ratio":0.5,"range":"10.0.0.0/8","parts":[{"name":"ab","size":1}]}}`, nil},
		{"names and enums have no case", `{"LOCATION":"x","Properties":{"KIND":"small"}}`, nil},
		{"null is absence", `{"location":null,"properties":{"kind":"Small","count":null,"parts":null}}`, nil},
		{"what Berth writes is dropped", `{"id":7,"properties":{"kind":"Small","state":{}}}`, nil},
		{"empty unsupported", `{"properties":{"kind":"Small","policy":{},"access":""}}`, nil},
		{"the one value that is had anyway", `{"properties":{"kind":"Small","access":"Enabled"}}`, nil},
		{"missing", `{"properties":{}}`, []string{"properties.kind", "required"}},
		{"missing with its object", `{}`, []string{"properties.kind", "required"}},
		{"null where required", `{"properties":{"kind":null}}`, []string{"properties.kind", "required"}},
		{"a number for a text", `{"location":7,"properties":{` + good + `}}`, []string{"location", "this is the number 7; it must be a string"}},
		{"a text for a number", `{"properties":{` + good + `,"count":"3"}}`, []string{"properties.count", "must be an integer"}},
		{"a fraction for an integer", `{"properties":{` + good + `,"count":1.5}}`, []string{"properties.count", "must be an integer"}},
		{"an integer beyond integers", `{"properties":{` + good + `,"count":1e400}}`, []string{"properties.count", "must be an integer"}},
		{"too small", `{"properties":{` + good + `,"count":0}}`, []string{"properties.count", "between 1 and 5"}},
		{"too large", `{"properties":{` + good + `,"ratio":1.01}}`, []string{"properties.ratio", "between 0 and 1"}},
		{"a text for a truth value", `{"properties":{` + good + `,"on":"true"}}`, []string{"properties.on", "true or false"}},
		{"an object for a list", `{"properties":{` + good + `,"parts":{}}}`, []string{"properties.parts", "must be a list"}},
		{"a list for an object", `{"properties":[]}`, []string{"properties", "must be an object"}},
		{"none of the values", `{"properties":{"kind":"Medium"}}`, []string{"properties.kind", "Small, Large"}},
		{"too long", `{"location":"01234567890","properties":{` + good + `}}`, []string{"location", "the most is 10"}},
		{"letters count, not bytes", `{"location":"éééééééééé","properties":{` + good + `}}`, nil},
		{"too many", `{"tags":{"a":"","b":"","c":""},"properties":{` + good + `}}`, []string{"tags", "the most is 2"}},
		{"inside a map", `{"tags":{"a":{}},"properties":{` + good + `}}`, []string{"tags.a", "must be a string"}},
		{"inside a list", `{"properties":{` + good + `,"parts":[{"name":"ab"},{"name":"c","size":0}]}}`, []string{"properties.parts[1].name", "fewest is 2", "properties.parts[1].size", "1"}},
		{"a list's entry of another type", `{"properties":{` + good + `,"names":["a",1]}}`, []string{"properties.names[1]", "must be a string"}},
		{"malformed", `{"properties":{` + good + `,"range":"10.0.0.0/33"}}`, []string{"properties.range", "CIDR"}},
		{"unknown", `{"properties":{` + good + `,"colour":"red"}}`, []string{"properties.colour", "no such field in api-version 2023-01-01"}},
		{"not yet", `{"properties":{` + good + `,"new":"x"}}`, []string{"properties.new", "no such field"}},
		{"no more", `{"properties":{` + good + `,"dropped":"x"}}`, []string{"properties.dropped", "no such field"}},
		{"not supported", `{"properties":{` + good + `,"policy":{"a":1}}}`, []string{"properties.policy", "support"}},
		{"not that value", `{"properties":{` + good + `,"access":"Disabled"}}`, []string{"properties.access", "Enabled"}},
		{"NUL", `{"location":"a\u0000b","properties":{` + good + `}}`, []string{"location", "NUL"}},
		{"a secret is not repeated", `{"properties":{` + good + `,"key":"TOPSECRET"}}`, []string{"properties.key", "PEM"}},
		{"all of it at once", `{"location":1,"properties":{"kind":"x","count":9,"zz":1}}`, []string{"location", "", "properties.count", "", "properties.kind", "", "properties.zz", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			doc, err := Decode([]byte(tt.doc))
			if err != nil {
				t.Fatal(err)
			}
			_, findings := s.Check(doc, "2023-01-01", "", true)
			var got []string
			for _, f := range findings {
				got = append(got, f.Target+": "+f.Message)
				if strings.Contains(f.Message, "TOPSECRET") {
					t.Errorf("the secret is in %q", f.Message)
				}
			}
			if len(got) != len(tt.findings)/2 {
				t.Fatalf("findings %q; want %q", got, tt.findings)
			}
			for i, f := range findings {
				if f.Target != tt.findings[2*i] || !strings.Contains(f.Message, tt.findings[2*i+1]) || f.HTTPStatus() != 400 {
					t.Errorf("finding %q (%d); want %q", got[i], f.HTTPStatus(), tt.findings[2*i:2*i+2])
				}
			}
		})
	}
}

func TestCheck_KeepsWhatIsValid(t *testing.T) {
	t.Parallel()
	doc, err := Decode([]byte(`{"LOCATION":"x","id":"mine","properties":{"Kind":"small","state":"mine","policy":{},"count":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, _ := s.Check(doc, "2023-01-01", "", true)
	want := map[string]any{"location": "x", "properties": map[string]any{"kind": "Small", "count": json.Number("2")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCheck_APatchNeedsNothing(t *testing.T) {
	t.Parallel()
	if _, findings := s.Check(map[string]any{"tags": map[string]any{"a": "b"}}, "2023-01-01", "", false); len(findings) > 0 {
		t.Error(findings[0])
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "no body", " \n": "no body", "\xff": "UTF-8", "{": "at byte 1", `{"a":}`: "at byte 6", "[]": "a list", "7": "the number 7", "null": "null", `"x"`: "a string", "{}{}": "after the JSON object", "{} x": "after the JSON object",
		strings.Repeat("[", 20000): "not valid JSON",
	} {
		if _, err := Decode([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want %q", in, err, want)
		}
	}
}

func TestMerge_RFC7396(t *testing.T) {
	t.Parallel()
	for _, tt := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`}, {`{"a":"b"}`, `{"a":null}`, `{}`}, {`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`}, {`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`}, {`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`}, {`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
	} {
		base, patch, want := decode(t, tt[0]), decode(t, tt[1]), decode(t, tt[2])
		if got := Merge(base, patch); !reflect.DeepEqual(got, want) {
			t.Errorf("%s + %s = %v; want %s", tt[0], tt[1], got, tt[2])
		}
		if !reflect.DeepEqual(base, decode(t, tt[0])) {
			t.Errorf("%s was changed", tt[0])
		}
	}
}

func TestOverlay_MergesPoolsByName(t *testing.T) {
	t.Parallel()
	got := Overlay(decode(t, `{"p":[{"name":"a","count":1},{"name":"b"}],"x":1}`), decode(t, `{"p":[{"name":"b","state":"on"},{"name":"gone"}],"y":2}`))
	if want := decode(t, `{"p":[{"name":"a","count":1},{"name":"b","state":"on"}],"x":1,"y":2}`); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestShape_Secrets_CarryOver_Changed(t *testing.T) {
	t.Parallel()
	stored := decode(t, `{"properties":{"kind":"Small","new":"x","key":"k"}}`)
	if got, want := s.Shape(stored, "2023-01-01"), any(decode(t, `{"properties":{"kind":"Small","note":null}}`)); !reflect.DeepEqual(got, want) {
		t.Errorf("shape: got %v, want %v", got, want)
	}
	doc := decode(t, `{"properties":{"kind":"Small","key":"k2"}}`)
	if secrets := s.Secrets(doc, ""); secrets["properties.key"] != "k2" || len(secrets) != 1 || doc["properties"].(map[string]any)["key"] != nil {
		t.Errorf("secrets %v, document %v", secrets, doc)
	}
	s.CarryOver(doc, stored, "2023-01-01") // an old version's PUT keeps what only a newer one can say
	if doc["properties"].(map[string]any)["new"] != "x" {
		t.Errorf("lost: %v", doc)
	}
	if f := s.Changed(decode(t, `{"properties":{"kind":"SMALL"}}`), stored, ""); len(f) != 0 {
		t.Errorf("another case is a change: %v", f[0])
	}
	if f := s.Changed(decode(t, `{"properties":{"kind":"Large"}}`), stored, ""); len(f) != 1 || f[0].Target != "properties.kind" || f[0].Code != "PropertyChangeNotAllowed" {
		t.Errorf("a change is not found: %v", f)
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	m, err := Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Whatever a client sends is refused with findings or comes out as a document of the struct's
// shape; nothing panics, and no finding is a fault of the server's.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{`{}`, `{"properties":{"kind":"Small","count":3}}`, `{"tags":{"a":null},"properties":{"parts":[{"name":"ab"},null,7]}}`, `{"properties":{"Kind":"small","kind":"Large"}}`, `{"properties":{"policy":[[]],"access":"enabled","key":"-----BEGIN A-----\n-----END A-----"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Decode(data)
		if err != nil {
			return
		}
		clean, findings := s.Check(doc, "2023-01-01", "", true)
		for _, e := range findings {
			if e.HTTPStatus() != 400 || e.Target == "" || e.Message == "" {
				t.Fatalf("%q: %+v", data, e)
			}
		}
		if len(findings) > 0 {
			return
		}
		out, err := json.Marshal(clean)
		if err != nil {
			t.Fatal(err)
		}
		var d document
		if err := json.Unmarshal(out, &d); err != nil {
			t.Fatalf("%q passed the check as %s, but is no document: %v", data, out, err)
		}
		again, findings := s.Check(clean, "2023-01-01", "", true)
		if len(findings) > 0 || !reflect.DeepEqual(again, clean) {
			t.Fatalf("%q is checked to %v, and that to %v %v", data, clean, again, findings)
		}
	})
}

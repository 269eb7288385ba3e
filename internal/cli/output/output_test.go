package output

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

const doc = `[{"name":"a","count":3,"ok":true,"nested":{"x":1},"list":[1,2]},{"name":"b","count":1.5,"ok":false,"nested":null,"list":[]}]`

func render(t *testing.T, format, query, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	p := &Printer{Out: &b, Format: format, Query: query}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	if err := p.Print(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, format, query, in, want string }{
		{"a string as JSON", "json", "[0].name", doc, "\"a\"\n"},
		{"a string as TSV has no quotes", "tsv", "[0].name", doc, "a\n"},
		{"columns in the order of a list projection", "tsv", "[].[count, name]", doc, "3\ta\n1.5\tb\n"},
		{"an object's columns by name", "tsv", "[]", doc, "3\t2\ta\t\tTrue\n1.5\t0\tb\tNone\tFalse\n"},
		{"TSV in the order of the query", "tsv", "[].{n: name, c: count}", doc, "a\t3\nb\t1.5\n"},
		{"a truth value alone", "tsv", "[].ok", doc, "true\nfalse\n"},
		{"an empty name", "table", "", `{"": 1, "é": 2}`, "    É\n--  ---\n1   2\n"},
		{"a table leaves nested values out", "table", "", doc, "Count    Name    Ok\n-------  ------  -----\n3        a       True\n1.5      b       False\n"},
		{"a table's columns in the order of the query", "table", "[].{Name: name, Count: count}", doc, "Name    Count\n------  -------\na       3\nb       1.5\n"},
		{"a table of scalars", "table", "[].name", doc, "Result\n--------\na\nb\n"},
		{"YAML", "yaml", "[0].{x: name, c: count}", doc, "c: 3\nx: a\n"},
		{"no result", "json", "[0].nothing", doc, ""},
		{"none", "none", "", doc, ""},
		{"HTML is not escaped", "json", "", `{"a":"<&>"}`, "{\n  \"a\": \"<&>\"\n}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := render(t, tt.format, tt.query, tt.in); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, p := range []Printer{{Format: "xml"}, {Format: "json", Query: "[?"}, {Format: "json", Query: "a ||"}} {
		if err := p.Check(); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}

// az's library takes text in backticks without quotes, too.
func TestSearch_Literals(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"[?name==`a`].count | [0]":       "3",
		"[?name==`\"a\"`].count | [0]":   "3",
		"[?count==`3`].name | [0]":       "a",
		"[?ok==`true`].name | [0]":       "a",
		"'`a`'":                          "`a`",
		"`a 'b'`":                        "a 'b'",
		"`it\\`s`":                       "it`s",
		"[0].{x: `one`, y: name}.[x, y]": "one\ta",
	} {
		if got := render(t, "tsv", query, doc); strings.ReplaceAll(strings.TrimSpace(got), "\n", "\t") != want {
			t.Errorf("%s: %q; want %q", query, got, want)
		}
	}
}

// FuzzSearch gives long queries a miss: [@,@][] doubles what it gets each time it is repeated.
func FuzzSearch(f *testing.F) {
	for _, q := range []string{"[].name", "[?count > `1`].{a: name}", "sort_by(@, &name)[0]", "[", "@.", "a.b[*].c | [0]", "`\"", "join(',', [].name)", "[::-1]", "[?name=='a']", "to_number(`\"x\"`)"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if len(query) > 200 {
			t.Skip()
		}
		var v any
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			t.Fatal(err)
		}
		_, _ = Search(query, v) // it may refuse, but must not panic
	})
}

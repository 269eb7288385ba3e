package dataplane_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
)

// things is a noun that says what reached it.
type things struct{}

func (things) Register(srv *dataplane.Server) {
	srv.Handle("GET", dataplane.ModelManagement, "/things/{id}", "things", dataplane.Read, func(r *dataplane.Request) (*dataplane.Reply, error) {
		return dataplane.OK(map[string]any{"id": r.PathValue("id"), "workspace": r.Workspace.String(), "row": r.Row.ID, "by": r.Stamp().By, "kind": r.Stamp().Kind, "q": r.Param("$Filter")})
	})
	srv.Handle("GET", dataplane.ModelManagement, "/files/{path...}", "things", dataplane.Read, func(r *dataplane.Request) (*dataplane.Reply, error) {
		return dataplane.OK(map[string]any{"path": r.PathValue("path")})
	})
	srv.Handle("DELETE", dataplane.ModelManagement, "/things/{id}", "things", dataplane.Delete, func(*dataplane.Request) (*dataplane.Reply, error) { return nil, nil })
	srv.Handle("POST", dataplane.ModelManagement, "/things/{id}", "things", dataplane.Write, func(r *dataplane.Request) (*dataplane.Reply, error) {
		return dataplane.Accepted(r, "op1", nil)
	})
	srv.Handle("PATCH", dataplane.ModelManagement, "/things/{id}", "things", dataplane.Write, func(r *dataplane.Request) (*dataplane.Reply, error) {
		after, paths, err := r.Patch(map[string]any{"tags": map[string]any{"a": "1"}, "list": []int{1, 2}, "nothing": nil, "count": 3})
		if err != nil {
			return nil, err
		}
		return dataplane.OK(map[string]any{"after": after, "paths": paths})
	})
	srv.Handle("PUT", dataplane.ModelManagement, "/things/{id}", "things", dataplane.Write, func(r *dataplane.Request) (*dataplane.Reply, error) {
		switch r.PathValue("id") {
		case "broken":
			return nil, errors.New("the secret inside")
		case "panics":
			panic("the secret inside")
		case "many":
			return nil, armerr.Join(armerr.CodeInvalidParameter, []*armerr.Error{armerr.Field("a", "one."), armerr.Field("b", "two.")})
		}
		var body struct {
			Name string
			At   struct{ Count int }
		}
		if err := r.Decode(&body); err != nil {
			return nil, err
		}
		n, err := r.Number("top", 7, 1, 10)
		if err != nil {
			return nil, err
		}
		return dataplane.OK(map[string]any{"name": body.Name, "top": n})
	})
}

func start(t *testing.T) *dataplanetest.Server {
	return dataplanetest.Start(t, func(*dataplanetest.Server) []dataplanetest.Noun { return []dataplanetest.Noun{things{}} })
}

const mms = dataplane.ModelManagement

// A workspace is found in the path however its client spells it.
func TestPaths(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, tt := range map[string]struct{ prefix, path, field, want string }{
		"plain":                    {mms, "/things/a", "id", "a"},
		"the prefix in capitals":   {"/ModelManagement/V1.0", "/things/a", "id", "a"},
		"slashes at the seam":      {mms + "//", "/things/a", "id", "a"},
		"slashes within":           {mms, "//things///a", "id", "a"},
		"an escaped colon":         {mms, "/things/a%3A1", "id", "a:1"},
		"an escaped slash":         {mms, "/things/a%2Fb", "id", "a/b"},
		"an escaped slash in rest": {mms, "/files/a%2Fb/c%20d", "path", "a/b/c d"},
		"slashes at the end":       {mms, "/files/a//", "path", "a/"},
		"escaped dots":             {mms, "/files/%2e%2e/a", "path", "../a"},
		"a parameter's case":       {mms, "/things/a?$filter=x", "q", "x"},
	} {
		if r := s.Want(200, "GET", tt.prefix, tt.path, ""); r.At(tt.field) != tt.want {
			t.Errorf("%s: %s, want %s %q", name, r.Raw, tt.field, tt.want)
		}
	}
	r := s.Want(200, "GET", mms, "/things/a", "")
	if r.At("row") != s.Workspace.String() || r.At("by") != "writer" || r.At("kind") != "User" {
		t.Errorf("the request came as %s", r.Raw)
	}
	for _, path := range []string{"/files/../things/a", "/./things/a", "/files/a/..", "/../../ws2/things/a"} {
		s.Refused(400, "BadRequest", "GET", mms, path, "", "..")
	}
	s.Refused(404, "NotSupported", "GET", mms, "/nothing", "", "/nothing", mms)
	s.Refused(404, "NotSupported", "GET", mms, "", "")
	s.Refused(404, "NotSupported", "GET", dataplane.Artifacts, "/things/a", "")
}

func TestMethodNotAllowed(t *testing.T) {
	t.Parallel()
	r := start(t).Refused(405, "MethodNotAllowed", "POST", mms, "/files/x", "{}", "POST", "GET")
	if got := r.Header.Get("Allow"); got != "GET" {
		t.Errorf("Allow: %q", got)
	}
}

// Who may not do something is told what he lacks and how he gets it; nobody learns what exists.
func TestAccess(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.As("").Refused(401, "AuthenticationFailed", "GET", mms, "/things/a", "", "token")
	s.As(dataplanetest.Stranger).Refused(403, "AuthorizationFailed", "GET", mms, "/things/a", "", "workspaces/things/read", "az role assignment create")
	s.As(dataplanetest.Reader).Want(200, "GET", mms, "/things/a", "")
	s.As(dataplanetest.Reader).Refused(403, "AuthorizationFailed", "DELETE", mms, "/things/a", "", "workspaces/things/delete")
	s.Want(204, "DELETE", mms, "/things/a", "")
	elsewhere := strings.TrimSuffix(s.Workspace.String(), "ws")
	s.In(elsewhere+"WS").Want(200, "GET", mms, "/things/a", "")
	s.In(elsewhere+"other").Refused(404, "ResourceNotFound", "GET", mms, "/things/a", "", "other")
	s.In(elsewhere+"other").As(dataplanetest.Stranger).Refused(403, "AuthorizationFailed", "GET", mms, "/things/a", "")
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.Want(202, "POST", mms, "/things/a", "")
	if got := r.Header.Get("Operation-Location"); !strings.HasPrefix(got, "https://") || !strings.HasSuffix(got, mms+s.Workspace.String()+"/operations/op1") {
		t.Errorf("Operation-Location: %q", got)
	}
	r = s.Want(200, "PUT", mms, "/things/a?TOP=3", `{"name":"n","unknown":1}`)
	if r.At("name") != "n" || r.At("top") != 3.0 || r.Header.Get("Content-Type") != "application/json; charset=utf-8" || r.Header.Get("api-supported-versions") == "" {
		t.Errorf("%s %v", r.Raw, r.Header)
	}
	for _, top := range []string{"0", "11", "x", "1e1", "99999999999999999999"} {
		s.Refused(400, "InvalidParameter", "PUT", mms, "/things/a?top="+top, "{}", "top", "1 to 10")
	}
	s.Refused(400, "InvalidRequestContent", "PUT", mms, "/things/a", `{"name":`, "JSON")
	s.Refused(400, "InvalidRequestContent", "PUT", mms, "/things/a", "", "JSON")
	if r := s.Refused(400, "InvalidParameter", "PUT", mms, "/things/a", `{"At":{"Count":"x"}}`, "At.Count", "string"); r.At("error.target") != "At.Count" {
		t.Error(r.Raw)
	}
	s.Refused(413, "RequestContentTooLarge", "PUT", mms, "/things/a", `{"name":"`+strings.Repeat("x", dataplane.MaxBody)+`"}`, "limit")
	for _, id := range []string{"broken", "panics"} {
		if r := s.Refused(500, "InternalServerError", "PUT", mms, "/things/"+id, "{}", "request ID"); strings.Contains(r.Raw, "secret") {
			t.Errorf("%s tells %s", id, r.Raw)
		}
	}
	r = s.Refused(400, "InvalidParameter", "PUT", mms, "/things/many", "{}", "one.", "two.")
	if r.At("code") != "BadRequest" || r.At("details.0.target") != "a" || r.At("details.1.target") != "b" {
		t.Errorf("two findings: %s", r.Raw)
	}
}

func TestPatch(t *testing.T) {
	t.Parallel()
	s := start(t)
	patched := func(change map[string]any) map[string]any {
		doc := map[string]any{"tags": map[string]any{"a": "1"}, "list": []any{1.0, 2.0}, "nothing": nil, "count": 3.0}
		for k, v := range change {
			doc[k] = v
			if v == "gone" {
				delete(doc, k)
			}
		}
		return doc
	}
	for name, tt := range map[string]struct {
		patch string
		want  map[string]any
	}{
		"nothing":                       {`[]`, patched(nil)},
		"replace what is there":         {`[{"op":"replace","path":"/tags","value":{"b":"2"}}]`, patched(map[string]any{"tags": map[string]any{"b": "2"}})},
		"replace what is not there":     {`[{"op":"replace","path":"/new","value":"x"}]`, patched(map[string]any{"new": "x"})},
		"replace by null":               {`[{"op":"replace","path":"/tags","value":null}]`, patched(map[string]any{"tags": nil})},
		"add below":                     {`[{"op":"add","path":"/tags/b","value":"2"}]`, patched(map[string]any{"tags": map[string]any{"a": "1", "b": "2"}})},
		"add below null":                {`[{"op":"add","path":"/nothing/b/c","value":"2"}]`, patched(map[string]any{"nothing": map[string]any{"b": map[string]any{"c": "2"}}})},
		"add below what is not there":   {`[{"op":"replace","path":"/new/b","value":"2"}]`, patched(map[string]any{"new": map[string]any{"b": "2"}})},
		"a name that is a number":       {`[{"op":"add","path":"/nothing/2000000000","value":"2"}]`, patched(map[string]any{"nothing": map[string]any{"2000000000": "2"}})},
		"a name with a slash":           {`[{"op":"add","path":"/nothing/a~1b/c~0d","value":"2"}]`, patched(map[string]any{"nothing": map[string]any{"a/b": map[string]any{"c~d": "2"}}})},
		"add to the end of a list":      {`[{"op":"add","path":"/list/-","value":3}]`, patched(map[string]any{"list": []any{1.0, 2.0, 3.0}})},
		"remove":                        {`[{"op":"remove","path":"/tags/a"}]`, patched(map[string]any{"tags": map[string]any{}})},
		"remove and add below again":    {`[{"op":"remove","path":"/tags"},{"op":"add","path":"/tags/b","value":"2"}]`, patched(map[string]any{"tags": map[string]any{"b": "2"}})},
		"move":                          {`[{"op":"move","from":"/tags","path":"/new"}]`, patched(map[string]any{"tags": "gone", "new": map[string]any{"a": "1"}})},
		"test what holds and then copy": {`[{"op":"test","path":"/count","value":3},{"op":"copy","from":"/count","path":"/new"}]`, patched(map[string]any{"new": 3.0})},
	} {
		r := s.Want(200, "PATCH", mms, "/things/a", tt.patch)
		if diff := cmp.Diff(any(tt.want), r.At("after")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	r := s.Want(200, "PATCH", mms, "/things/a", `[{"op":"move","from":"/tags","path":"/new"}]`)
	if diff := cmp.Diff([]any{"/new", "/tags"}, r.At("paths")); diff != "" {
		t.Errorf("a move changes both of its paths (-want +got):\n%s", diff)
	}
	var doubling []map[string]string
	for i := range 64 {
		doubling = append(doubling, map[string]string{"op": "copy", "from": "/tags", "path": fmt.Sprint("/tags/", i)})
	}
	bomb, err := json.Marshal(doubling)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range map[string]struct {
		status            int
		code, patch, says string
	}{
		"no list":                    {400, "InvalidRequestContent", `{"op":"add"}`, "JSON"},
		"no path":                    {400, "InvalidRequestContent", `[{"op":"add","value":1}]`, "begin with /"},
		"a path without slash":       {400, "InvalidRequestContent", `[{"op":"add","path":"a","value":1}]`, "begin with /"},
		"a source without slash":     {400, "InvalidRequestContent", `[{"op":"move","path":"/a","from":"b"}]`, "begin with /"},
		"a path that is no text":     {400, "InvalidParameter", `[{"op":"add","path":1}]`, "path"},
		"an unknown operation":       {400, "InvalidRequestContent", `[{"op":"increase","path":"/count"}]`, "/count"},
		"remove what is not there":   {400, "BadRequest", `[{"op":"remove","path":"/tags/z"}]`, "/tags/z"},
		"a test that does not hold":  {400, "BadRequest", `[{"op":"test","path":"/count","value":4}]`, "/count"},
		"below a number":             {400, "BadRequest", `[{"op":"add","path":"/count/a","value":1}]`, "/count/a"},
		"far beyond a list's end":    {400, "BadRequest", `[{"op":"add","path":"/list/2000000000","value":1}]`, "/list/2000000000"},
		"below far beyond its end":   {400, "BadRequest", `[{"op":"add","path":"/list/2000000000/a","value":1}]`, "/list/2000000000/a"},
		"before a list's start":      {400, "BadRequest", `[{"op":"add","path":"/list/-1","value":1}]`, "/list/-1"},
		"too many operations":        {400, "InvalidRequestContent", "[" + strings.Repeat(`{"op":"add","path":"/a","value":1},`, 1000) + `{"op":"add","path":"/a","value":1}]`, "1000"},
		"work without end":           {413, "RequestContentTooLarge", `[{"op":"add","path":"/a","value":"` + strings.Repeat("x", 500<<10) + `"},` + strings.Repeat(`{"op":"add","path":"/b","value":1},`, 900) + `{"op":"add","path":"/b","value":1}]`, "several requests"},
		"a copy of copies of copies": {413, "RequestContentTooLarge", string(bomb), "smaller"},
	} {
		s.Refused(tt.status, tt.code, "PATCH", mms, "/things/a", tt.patch, tt.says)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"a": "1", "b": "", "c": "x=y"}
	for filter, want := range map[string]bool{"": true, "a": true, "a=1": true, "a=2": false, "z": false, "b": true, "b=": true, "b=1": false, "a=1,b": true, "a=1,z": false, "c=x=y": true, "A": false} {
		if got := dataplane.Matches(labels, filter); got != want {
			t.Errorf("Matches(%q) = %v", filter, got)
		}
	}
	if dataplane.Matches(nil, "a") || !dataplane.Matches(nil, "") {
		t.Error("nothing matches what asks for something")
	}
}

// A client's request ID comes back, within reason.
func TestClientRequestID(t *testing.T) {
	t.Parallel()
	s := start(t)
	for id, want := range map[string]string{"abc": "abc", strings.Repeat("x", 101): ""} {
		r := s.With(http.Header{"X-Ms-Client-Request-Id": {id}}).Want(200, "GET", mms, "/things/a", "")
		if got := r.Header.Get("x-ms-client-request-id"); got != want {
			t.Errorf("%q came back as %q", id, got)
		}
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gaps := write("gaps.md", "## What does not work\n")
	if _, err := render(dir, gaps); err == nil {
		t.Error("there is a page without results")
	}
	write("a.jsonl", `{"client":"az","version":"1","operation":"x | y","behaviours":["B"],"result":"pass"}
{"client":"az","version":"1","operation":"x | y","behaviours":["A","B"],"result":"fail"}
{"client":"az","version":"1","operation":"z","behaviours":[],"result":"pass"}
`)
	page, err := render(dir, gaps)
	if err != nil {
		t.Fatal(err)
	}
	// One failure of several tests makes the operation fail.
	for _, line := range []string{"| az 1 | 2 | 1 | 1 |", `| x \| y | A B | fail |`, "| z |  | pass |", "## What does not work"} {
		if !strings.Contains(string(page), line+"\n") {
			t.Errorf("without %q:\n%s", line, page)
		}
	}
	if strings.Contains(string(page), "Every call") {
		t.Errorf("without calls there is a list of them:\n%s", page)
	}
	write("b.jsonl", `{"client":"sdk","version":"2","operation":"o","behaviours":[],"result":"pass"}
{"client":"sdk","version":"2","call":"A.none"}
{"client":"sdk","version":"2","call":"A.works"}
{"client":"sdk","version":"2","call":"A.works","test":"test_2","result":"pass","returned":false}
{"client":"sdk","version":"2","call":"A.works","test":"test_1","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.works","test":"test_1","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.other","test":"test_1","result":"pass","returned":true,"differs":"a|b"}
{"client":"sdk","version":"2","call":"A.gone","test":"test_1","result":"pass","returned":false,"differs":"refused"}
{"client":"sdk","version":"2","call":"A.fails","test":"test_3","result":"fail","returned":true}
{"client":"sdk","version":"2","call":"A.much","test":"t1","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.much","test":"t2","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.much","test":"t3","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.much","test":"t4","result":"pass","returned":true}
{"client":"sdk","version":"2","call":"A.much","test":"t5","result":"pass","returned":true}
`)
	if page, err = render(dir, gaps); err != nil {
		t.Fatal(err)
	}
	// A call works when it returned in a test that passed; where none makes it, the page says so.
	for _, line := range []string{
		"| sdk 2 | 1 | 1 | 0 |", "| A.none | **no test makes it** |  |", "| A.works | works | test_1 |", `| A.other | works, differently: a\|b | test_1 |`,
		"| A.gone | does not exist here: refused | test_1 |", "| A.fails | **its tests failed** | test_3 |", "| A.much | works | t1 t2 t3 and 2 more |",
	} {
		if !strings.Contains(string(page), line+"\n") {
			t.Errorf("without %q:\n%s", line, page)
		}
	}
	write("c.jsonl", `{"client":"az","version":"1","operation":"x","call":"y","result":"pass"}`+"\n")
	if _, err := render(dir, gaps); err == nil || !strings.Contains(err.Error(), "c.jsonl") {
		t.Errorf("a line about two things: %v", err)
	}
	write("c.jsonl", "")
	write("b.jsonl", "nonsense\n")
	if _, err := render(dir, gaps); err == nil || !strings.Contains(err.Error(), "b.jsonl") {
		t.Errorf("a damaged line: %v", err)
	}
}

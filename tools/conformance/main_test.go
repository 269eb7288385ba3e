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
	write("b.jsonl", "nonsense\n")
	if _, err := render(dir, gaps); err == nil || !strings.Contains(err.Error(), "b.jsonl") {
		t.Errorf("a damaged line: %v", err)
	}
}

// Conformance writes docs/conformance.md from what the clients' suites proved: each test
// leaves a line of JSON for the operation that it is about. A failed operation is listed as
// failed; an operation that no test proved is not listed at all.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// proof is a line of the suites' results.
type proof struct {
	Client     string   `json:"client"`
	Version    string   `json:"version"`
	Operation  string   `json:"operation"`
	Behaviours []string `json:"behaviours"` // the mission's numbers
	Result     string   `json:"result"`     // pass or fail
}

func main() {
	log.SetFlags(0)
	results := flag.String("results", ".build/results/conformance", "folder with the suites' .jsonl files")
	gaps := flag.String("gaps", "tools/conformance/gaps.md", "file with what does not work, for the end of the page")
	out := flag.String("out", "docs/conformance.md", "file to write")
	flag.Parse()
	page, err := render(*results, *gaps)
	if err != nil {
		log.Fatal("conformance: ", err)
	}
	if err := os.WriteFile(*out, page, 0o644); err != nil {
		log.Fatal("conformance: ", err)
	}
}

func render(results, gaps string) ([]byte, error) {
	proofs, err := read(results)
	if err != nil {
		return nil, err
	}
	missing, err := os.ReadFile(gaps)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("<!-- Written by `make conformance` from the results of `make test`; do not edit. -->\n# Conformance\n\n" +
		"What works with which client, unmodified, as published. Every line is an operation that a test called through the\n" +
		"real client over HTTPS; its result is that of the run. The suites of the clients use the fake cluster provider, but for models and\n" +
		"web services and the lines that say \"real clusters\". The numbers are those of [behaviours.md](behaviours.md).\n\n")
	clients := map[string][]proof{}
	for _, p := range proofs {
		name := p.Client + " " + p.Version
		clients[name] = append(clients[name], p)
	}
	b.WriteString("| client | operations | passed | failed |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		failed := 0
		for _, p := range clients[name] {
			if p.Result != "pass" {
				failed++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", name, len(clients[name]), len(clients[name])-failed, failed)
	}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		fmt.Fprintf(&b, "\n## %s\n\n| operation | behaviours | result |\n|---|---|---|\n", name)
		for _, p := range clients[name] {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.ReplaceAll(p.Operation, "|", `\|`), strings.Join(p.Behaviours, " "), p.Result)
		}
	}
	b.WriteString("\n")
	b.Write(missing)
	return b.Bytes(), nil
}

// read collects the proofs by client and operation. Several tests of one operation make
// one proof, which failed when one of them did.
func read(folder string) ([]proof, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no results in %s; run make test first (%v)", folder, err)
	}
	all := map[[3]string]proof{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			var p proof
			if err := json.Unmarshal(lines.Bytes(), &p); err != nil || p.Client == "" || p.Operation == "" {
				return nil, fmt.Errorf("%s: this line is not a result: %.200q (%v)", file, lines.Text(), err)
			}
			key := [3]string{p.Client, p.Version, p.Operation}
			if old, seen := all[key]; seen {
				p.Behaviours = slices.Concat(old.Behaviours, p.Behaviours)
				if old.Result != "pass" {
					p.Result = old.Result
				}
			}
			slices.Sort(p.Behaviours)
			p.Behaviours = slices.Compact(p.Behaviours)
			all[key] = p
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b proof) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Operation, b.Operation))
	}), nil
}

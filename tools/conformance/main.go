// Conformance writes docs/conformance.md from what the clients' suites proved: each test
// leaves a line of JSON for the operation that it is about. A failed operation is listed as
// failed; an operation that no test proved is not listed at all.
//
// Where a suite knows all calls of its client's surface, each call leaves a line, too, and so does each test for each
// call that it made. Then all calls are listed, and one that no test made is listed as such.
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

// proof is a line of the suites' results: about an operation, or about a call.
type proof struct {
	Client     string   `json:"client"`
	Version    string   `json:"version"`
	Operation  string   `json:"operation"`
	Behaviours []string `json:"behaviours"` // the mission's numbers
	Result     string   `json:"result"`     // pass or fail; "" for a call that there is

	Call     string `json:"call"`
	Test     string `json:"test"`     // that made the call
	Returned bool   `json:"returned"` // whether the call did in that test, or raised
	Differs  string `json:"differs"`  // what is otherwise than in Azure
}

// call is what the tests showed of one call of a client's surface.
type call struct {
	name, differs      string
	worked, gone, fail []string // tests in which it returned, in which it only raised, and which failed
}

// result is a call's, in words, with the tests that show it.
func (c *call) result() (what string, tests []string) {
	switch {
	case len(c.worked) > 0 && c.differs != "":
		return "works, differently: " + c.differs, c.worked
	case len(c.worked) > 0:
		return "works", c.worked
	case len(c.gone) > 0 && c.differs != "":
		return "does not exist here: " + c.differs, c.gone
	case len(c.gone) > 0:
		return "does not exist here", c.gone
	case len(c.fail) > 0:
		return "**its tests failed**", c.fail
	}
	return "**no test makes it**", nil
}

// maxTests is how many tests are named of a call; the rest is counted.
const maxTests = 3

// calls are those of one client, by name.
func calls(proofs []proof) []*call {
	byName := map[string]*call{}
	for _, p := range proofs {
		c := byName[p.Call]
		if c == nil {
			c = &call{name: p.Call}
			byName[p.Call] = c
		}
		c.differs = cmp.Or(c.differs, p.Differs)
		switch {
		case p.Test == "":
		case p.Result != "pass":
			c.fail = append(c.fail, p.Test)
		case p.Returned:
			c.worked = append(c.worked, p.Test)
		default:
			c.gone = append(c.gone, p.Test)
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b *call) int { return cmp.Compare(a.name, b.name) })
}

func writeCalls(b *bytes.Buffer, calls []*call) {
	if len(calls) == 0 {
		return
	}
	b.WriteString("\nEvery call of the surface for models, environments and web services, as the package has it, and tests that make it:\n\n| call | result | tests |\n|---|---|---|\n")
	for _, c := range calls {
		what, tests := c.result()
		slices.Sort(tests)
		tests = slices.Compact(tests)
		text := strings.Join(tests[:min(maxTests, len(tests))], " ")
		if more := len(tests) - maxTests; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", c.name, strings.ReplaceAll(what, "|", `\|`), text)
	}
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
	proofs, made, err := read(results)
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
		writeCalls(&b, calls(made[name]))
	}
	b.WriteString("\n")
	b.Write(missing)
	return b.Bytes(), nil
}

// read collects the proofs by client and operation, and the calls by client. Several tests of one operation make
// one proof, which failed when one of them did.
func read(folder string) (proofs []proof, calls map[string][]proof, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
	if err != nil || len(files) == 0 {
		return nil, nil, fmt.Errorf("there are no results in %s; run make test first (%v)", folder, err)
	}
	calls = map[string][]proof{}
	all := map[[3]string]proof{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			var p proof
			if err := json.Unmarshal(lines.Bytes(), &p); err != nil || p.Client == "" || (p.Operation == "") == (p.Call == "") {
				return nil, nil, fmt.Errorf("%s: this line is not a result: %.200q (%v)", file, lines.Text(), err)
			}
			if p.Call != "" {
				name := p.Client + " " + p.Version
				calls[name] = append(calls[name], p)
				continue
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
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b proof) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Operation, b.Operation))
	}), calls, nil
}

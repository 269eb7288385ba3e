// Package vmsize is the table of Azure's VM sizes: how many vCPUs, how much memory and how
// many GPUs a machine of a size has, as Azure's public documentation lists them. Most
// families are regular, so the table has a line for each family, not for each size.
package vmsize

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Size is one VM size.
type Size struct {
	Name      string // canonical, e.g. Standard_D3_v2
	VCPUs     int
	MemoryMiB int64
	GPUs      int
}

//go:embed sizes.txt
var table string

var load = sync.OnceValue(func() map[string]Size {
	out := map[string]Size{}
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		sizes, err := parse(line)
		if err != nil {
			panic(fmt.Sprintf("vmsize: the embedded table is damaged at %q: %v", line, err))
		}
		for _, s := range sizes {
			out[strings.ToLower(s.Name)] = s
		}
	}
	return out
})

// parse reads a line of the table: a pattern, then sizes. Each size is NUMBER=VCPUS/GIB, with
// /GPUS where there are any; NUMBER takes the place of * in the pattern. A plain
// NUMBER is VCPUS, with the GiB per vCPU that the pattern's second word gives.
func parse(line string) ([]Size, error) {
	words := strings.Fields(line)
	pattern := words[0]
	words = words[1:]
	ratio := 0.0
	if r, ok := strings.CutPrefix(words[0], "x"); ok {
		var err error
		if ratio, err = strconv.ParseFloat(r, 64); err != nil {
			return nil, err
		}
		words = words[1:]
	}
	var out []Size
	for _, w := range words {
		number, rest, explicit := strings.Cut(w, "=")
		s := Size{Name: strings.Replace(pattern, "*", number, 1)}
		if !explicit {
			n, err := strconv.Atoi(number)
			if err != nil {
				return nil, err
			}
			s.VCPUs, s.MemoryMiB = n, int64(float64(n)*ratio*1024)
			out = append(out, s)
			continue
		}
		f := strings.Split(rest, "/")
		gib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return nil, err
		}
		if s.VCPUs, err = strconv.Atoi(f[0]); err != nil {
			return nil, err
		}
		s.MemoryMiB = int64(gib * 1024)
		if len(f) > 2 {
			if s.GPUs, err = strconv.Atoi(f[2]); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// Lookup finds a size by name, whatever the case.
func Lookup(name string) (Size, bool) {
	s, ok := load()[strings.ToLower(name)]
	return s, ok
}

// All lists the sizes by name.
func All() []Size {
	m := load()
	out := make([]Size, 0, len(m))
	for _, s := range m {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Size) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Suggest returns the known size whose name is nearest to a mistyped one, "" when none is near.
func Suggest(name string) string {
	plain := strings.NewReplacer("_", "", "-", "", " ", "", "standard", "")
	want := plain.Replace(strings.ToLower(name))
	if len(want) > 64 {
		return ""
	}
	best, near := "", 1+min(2, len(want)/3) // more edits than that are no typo
	for _, s := range All() {
		if d := distance(want, plain.Replace(strings.ToLower(s.Name)), near); d < near {
			best, near = s.Name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two strings, or limit if it is not below that.
func distance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return min(row[len(b)], limit)
}

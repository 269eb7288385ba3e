// Package region is the table of Azure's public regions: names, geographies and the
// paired region of each, as Azure's public documentation lists them.
package region

import (
	_ "embed"
	"encoding/csv"
	"slices"
	"strings"
	"sync"
)

// Region is one Azure region.
type Region struct {
	Name                string // canonical, e.g. westeurope
	DisplayName         string // e.g. West Europe
	RegionalDisplayName string // e.g. (Europe) West Europe
	Category            string // Recommended or Other
	Geography           string
	GeographyGroup      string
	PhysicalLocation    string
	Latitude, Longitude string // degrees
	PairedRegion        string // "" for regions without a pair
}

//go:embed regions.csv
var table string

var load = sync.OnceValue(func() map[string]Region {
	records, err := csv.NewReader(strings.NewReader(table)).ReadAll()
	if err != nil {
		panic("region: the embedded table is damaged: " + err.Error())
	}
	out := make(map[string]Region, len(records))
	for _, f := range records[1:] {
		r := Region{Name: fold(f[0]), DisplayName: f[0], Category: f[1], Geography: f[2], GeographyGroup: f[3], PhysicalLocation: f[4], Latitude: f[5], Longitude: f[6], PairedRegion: fold(f[7])}
		r.RegionalDisplayName = "(" + r.GeographyGroup + ") " + r.DisplayName
		out[r.Name] = r
	}
	return out
})

// fold is how Azure compares region names: without spaces and case.
func fold(name string) string { return strings.ToLower(strings.ReplaceAll(name, " ", "")) }

// Lookup finds a region by its name or display name, whatever the case.
func Lookup(name string) (Region, bool) {
	r, ok := load()[fold(name)]
	return r, ok
}

// All lists the regions by name.
func All() []Region {
	m := load()
	out := make([]Region, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Region) int { return strings.Compare(a.Name, b.Name) })
	return out
}

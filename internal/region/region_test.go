package region

import "testing"

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"westeurope", "West Europe", "WESTEUROPE", "west europe"} {
		r, ok := Lookup(name)
		if !ok || r.Name != "westeurope" || r.PairedRegion != "northeurope" || r.RegionalDisplayName != "(Europe) West Europe" {
			t.Errorf("Lookup(%q) = %+v, %v", name, r, ok)
		}
	}
	if r, ok := Lookup("atlantis"); ok {
		t.Errorf("Lookup(atlantis) = %+v", r)
	}
}

func TestAll_PairsExist(t *testing.T) {
	t.Parallel()
	// Azure's pairs are mutual but for these, whose pair is paired with another.
	oneWay := map[string]bool{"westus3": true, "brazilsouth": true, "brazilsoutheast": true, "westindia": true}
	all := All()
	if len(all) < 45 {
		t.Fatalf("only %d regions", len(all))
	}
	for _, r := range all {
		if r.PairedRegion == "" {
			continue
		}
		p, ok := Lookup(r.PairedRegion)
		if !ok {
			t.Errorf("%s: its pair %q does not exist", r.Name, r.PairedRegion)
		} else if p.PairedRegion != r.Name && !oneWay[r.Name] {
			t.Errorf("%s is paired with %s, which is paired with %s", r.Name, p.Name, p.PairedRegion)
		}
	}
}

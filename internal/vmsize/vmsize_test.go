package vmsize

import "testing"

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, want := range []Size{
		{"Standard_D3_v2", 4, 14336, 0}, {"Standard_DS2_v2", 2, 7168, 0}, {"Standard_D2s_v3", 2, 8192, 0}, {"Standard_B2s", 2, 4096, 0},
		{"Standard_NC6", 6, 57344, 1}, {"Standard_D4s_v3", 4, 16384, 0}, {"Standard_F2s_v2", 2, 4096, 0}, {"Standard_E64_v3", 64, 442368, 0}, {"Standard_A1_v2", 1, 2048, 0}, {"Standard_B1ls", 1, 512, 0},
		{"Standard_NC80adis_H100_v5", 80, 655360, 2}, {"Standard_E128s_v6", 128, 1048576, 0}, {"Standard_D96pls_v6", 96, 196608, 0}, {"Standard_M416ms_v2", 416, 11673600, 0}, {"Standard_NV24s_v2", 24, 458752, 4},
	} {
		if got, ok := Lookup(want.Name); !ok || got != want {
			t.Errorf("Lookup(%s) = %+v, %v; want %+v", want.Name, got, ok, want)
		}
	}
	if s, ok := Lookup("STANDARD_d3_V2"); !ok || s.Name != "Standard_D3_v2" {
		t.Errorf("a name in another case: %+v, %v", s, ok)
	}
	if n := len(All()); n < 250 {
		t.Errorf("only %d sizes", n)
	}
	for _, s := range All() {
		if s.VCPUs < 1 || s.MemoryMiB < 512 {
			t.Errorf("%+v cannot be", s)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"standard_d3v2": "Standard_D3_v2", "Standard_D3_V22": "Standard_D3_v2", "D2s_v3": "Standard_D2s_v3", "elephant": "", "": "", "x": "", "D": "", "Standard_E4s_v7": "Standard_E4s_v3"} {
		if got := Suggest(in); got != want {
			t.Errorf("Suggest(%q) = %q; want %q", in, got, want)
		}
	}
}

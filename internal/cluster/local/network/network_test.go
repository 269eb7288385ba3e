package network

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestSubnet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		subnet                         Subnet
		machines, services, hub, node3 string
	}{
		{0, "10.192.0.0/24", "127.192.0.0/24", "10.192.0.2", "10.192.0.13"},
		{257, "10.193.1.0/24", "127.193.1.0/24", "10.193.1.2", "10.193.1.13"},
		{Subnets - 1, "10.223.255.0/24", "127.223.255.0/24", "10.223.255.2", "10.223.255.13"},
	} {
		s := test.subnet
		if s.Range().String() != test.machines || s.Services().String() != test.services || s.Hub().String() != test.hub || s.Node(3).String() != test.node3 {
			t.Errorf("subnet %d: %v %v %v %v, want %+v", s, s.Range(), s.Services(), s.Hub(), s.Node(3), test)
		}
		if last := s.Node(MaxNodes - 1); !s.Range().Contains(last) {
			t.Errorf("subnet %d: the last node's address %v is outside", s, last)
		}
	}
}

func TestPodRange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pods  string
		index int
		want  string // empty: no room
	}{
		{"10.244.0.0/16", 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 255, "10.244.255.0/24"},
		{"10.244.0.0/16", 256, ""},
		{"172.16.0.0/12", 300, "172.17.44.0/24"},
		{"192.168.7.0/24", 0, "192.168.7.0/24"},
		{"192.168.7.0/24", 1, ""},
		{"192.168.7.0/25", 0, ""},
		{"fd00::/64", 0, ""},
	} {
		got, err := PodRange(netip.MustParsePrefix(test.pods), test.index)
		if (err != nil) != (test.want == "") || err == nil && got.String() != test.want {
			t.Errorf("range %d of %s: %v, error %v; want %q", test.index, test.pods, got, err, test.want)
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	first, err := Claim(folder, "one", 4242)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Claim(folder, "one", 77); err != nil || again != first {
		t.Errorf("a repeated claim: %d, error %v; want %d", again, err, first)
	}
	second, err := Claim(folder, "two", first)
	if err != nil || second == first {
		t.Errorf("another cluster's claim: %d, error %v; want another than %d", second, err, first)
	}
	avoided, err := Claim(folder, "three", first, (second + 1).Range())
	if err != nil || avoided == second+1 || avoided == first || avoided == second {
		t.Errorf("a claim that avoids %d: %d, error %v", second+1, avoided, err)
	}
	// After a reboot somebody else was faster: the address in the certificates is lost.
	if err := Reclaim(folder, "four", first); err == nil || !strings.Contains(err.Error(), first.Range().String()) {
		t.Errorf("reclaiming a network that is taken: error %v, want one that names it", err)
	}
	if _, found, err := claimed(folder, "four"); found || err != nil {
		t.Errorf("a failed reclaim left a claim (error %v)", err)
	}
	if err := Reclaim(folder, "one", first); err != nil {
		t.Errorf("reclaiming what one has: %v", err)
	}
	if err := (Subnet(1)).take(folder, "five"); err != nil {
		t.Fatal(err)
	}
	if err := (Subnet(1)).take(folder, "six"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("taking a taken subnet: error %v, want fs.ErrExist", err)
	}
	if drafts, _ := os.ReadDir(folder); len(drafts) != 4 {
		t.Errorf("%d files in the folder of claims, want 4", len(drafts))
	}
}

// TestNetwork makes a network of two nodes, twice, and removes it, twice.
func TestNetwork(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("networks need root")
	}
	claims := t.TempDir()
	subnet, err := Claim(claims, "network", 5000)
	if err != nil {
		t.Fatal(err)
	}
	n := Network{
		Folder: t.TempDir(), HostLink: "bth-" + rand.Text()[:8], Alias: "test", Subnet: subnet,
		Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.0.0.0/16"),
	}
	remove := func() {
		if err := Remove(n.Folder, n.HostLink, claims, "network"); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	t.Cleanup(remove)
	pods := netip.MustParsePrefix("10.244.1.0/24")
	for range 2 {
		if err := n.Ensure(); err != nil {
			t.Fatal(err)
		}
		if err := n.EnsureNode(0, pods); err != nil {
			t.Fatal(err)
		}
	}
	if !Connected(n.HostLink) {
		t.Error("the host is not connected")
	}
	if routes, err := subnet.blackHoles(); err != nil || len(routes) != 3 {
		t.Fatalf("black holes %v, error %v; want 3", routes, err)
	}
	for range 2 {
		if err := n.RemoveNode(0, pods); err != nil {
			t.Errorf("RemoveNode: %v", err)
		}
	}
	for range 2 {
		remove()
	}
	if routes, err := subnet.blackHoles(); err != nil || len(routes) > 0 {
		t.Errorf("left behind: %v, error %v", routes, err)
	}
	if files, _ := os.ReadDir(n.Folder); len(files) > 0 || Connected(n.HostLink) {
		t.Errorf("left behind: %v, link %v", files, Connected(n.HostLink))
	}
}

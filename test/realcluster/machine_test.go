// Package realcluster runs the built berth program with real clusters on this machine: the
// demo of the README with unmodified clients, and a Berth that is killed again and again.
package realcluster

import (
	"os/exec"
	"strings"
	"testing"
)

// untouched fails the test if it leaves more on the machine than it found.
func untouched(t *testing.T) {
	t.Helper()
	before := machine(t)
	t.Cleanup(func() {
		for thing := range machine(t) {
			if !before[thing] {
				t.Errorf("left behind: %s", thing)
			}
		}
	})
}

// machine is what clusters could leave on it: network namespaces, links, mounts and tables
// of rules.
func machine(t *testing.T) map[string]bool {
	t.Helper()
	things := map[string]bool{}
	for _, command := range []string{"ip netns list", "ip -brief link show type veth", "ip -brief link show type bridge", "findmnt -rno TARGET", "nft list tables"} {
		args := strings.Fields(command)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v %s", command, err, out)
		}
		for line := range strings.Lines(string(out)) {
			things[command+": "+strings.TrimSpace(line)] = true
		}
	}
	return things
}

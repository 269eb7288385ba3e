// Package demo runs the demo of the README: unmodified clients on real clusters.
package demo

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proofs are lines that the demo prints only when what they say is so.
var proofs = []string{
	`myaks: Succeeded, 3 x Standard_D3_v2`,      // C1, C3
	`(?m)( +\S+-vmss\d+ +Ready .*\n){3}`,        // three Ready nodes
	`(?m)( +\S+ +Standard_D3_v2 +4 +14Gi\n){3}`, // with that size's capacity
	`It answers: hello from`,
	`myexistingcluster +Succeeded`,                            // A8
	`/resourcegroups/demo-rg/.*/myexistingcluster"`,           // A2
	`attached: Succeeded`,                                     // A1
	`attached: AKS, Succeeded\n +myaks: AKS, Succeeded`,       // C4
	`attached: gone`, `myaks: gone`, `nothing is left behind`, // A6
}

func TestDemo_C1_C3_C4_A1_A2_A6_A8(t *testing.T) {
	python, az, libexec := os.Getenv("BERTH_PYTHON"), os.Getenv("BERTH_AZ"), os.Getenv("BERTH_LIBEXEC")
	if python == "" || az == "" || libexec == "" || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the demo needs root, BERTH_PYTHON, BERTH_AZ and BERTH_LIBEXEC; make test sets them")
		}
		t.Skip("needs root, BERTH_PYTHON, BERTH_AZ and BERTH_LIBEXEC; make test sets them")
	}
	script, err := filepath.Abs("../../demo/demo.sh")
	if err != nil {
		t.Fatal(err)
	}
	before := machine(t)
	var out strings.Builder
	cmd := exec.Command(script)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			t.Log(lines.Text())
			out.WriteString(lines.Text() + "\n")
		}
	}()
	err = cmd.Run()
	_ = w.Close() // a pipe's never fails
	<-copied
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range proofs {
		if !regexp.MustCompile(p).MatchString(out.String()) {
			t.Errorf("the demo did not show %s", p)
		}
	}
	for thing := range machine(t) {
		if !before[thing] {
			t.Errorf("the demo left this behind: %s", thing)
		}
	}
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

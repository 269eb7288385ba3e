package output

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestSearch_Compliance runs JMESPath's own compliance suite, which comes with the library's
// module.
func TestSearch_Compliance(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/jmespath/go-jmespath").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "compliance", "*.json"))
	if err != nil || len(files) < 10 {
		t.Fatalf("the suite is not there: %v %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Given any
			Cases []struct {
				Expression, Error string
				Result            any
			}
		}
		if err := json.Unmarshal(data, &groups); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range groups {
			for _, c := range g.Cases {
				got, err := Search(c.Expression, g.Given)
				switch {
				case c.Error != "" && err == nil:
					t.Errorf("%s: %s is accepted; it should be refused: %s", filepath.Base(file), c.Expression, c.Error)
				case c.Error == "" && err != nil:
					t.Errorf("%s: %s: %v", filepath.Base(file), c.Expression, err)
				case c.Error == "" && !reflect.DeepEqual(got, c.Result):
					t.Errorf("%s: %s = %v; want %v", filepath.Base(file), c.Expression, got, c.Result)
				}
			}
		}
	}
}

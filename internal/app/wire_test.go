package app_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the answers of the wire tests as what is expected")

// TestWire sends the requests of each testdata/wire/*.http to a Berth of its own and
// compares every answer, byte for byte once what differs from run to run is replaced.
//
// A file is a list of exchanges that ### separates. An exchange is a request line, headers,
// and after an empty line a body; then the lines that begin with < are the answer's status
// and the headers that ARM clients read, and the rest is its body. Lines that begin with
// # are comments. The request AWAIT polls the last answer's operation to its end. {id} is the id in the last answer, and
// {asset} the one of the last asset.
func TestWire(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/wire/*.http")
	if err != nil || len(files) == 0 {
		t.Fatalf("no wire tests: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".http"), func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := start(t, nil)
			var last reply
			var out []string
			asset := "none"
			for _, exchange := range strings.Split(string(source), "\n###\n") {
				request := requestOf(exchange)
				last = s.exchange(request, last, asset)
				if _, is := last.body["artifacts"].([]any); is {
					asset = last.at("id").(string)
				}
				out = append(out, strings.TrimRight(request, "\n")+"\n\n"+s.golden(last))
			}
			got := strings.Join(out, "\n###\n")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			wantBlocks, gotBlocks := strings.Split(string(source), "\n###\n"), out
			for i := range gotBlocks {
				if strings.TrimSpace(gotBlocks[i]) != strings.TrimSpace(wantBlocks[i]) {
					t.Errorf("exchange %d\n--- got\n%s\n--- want\n%s", i+1, gotBlocks[i], wantBlocks[i])
				}
			}
		})
	}
}

// requestOf is an exchange without its answer.
func requestOf(exchange string) string {
	if i := strings.Index(exchange, "\n< "); i >= 0 {
		exchange = exchange[:i]
	}
	return strings.TrimSpace(exchange) + "\n"
}

func (s *server) exchange(request string, last reply, asset string) reply {
	s.t.Helper()
	id, _ := last.at("id").(string)
	known := strings.NewReplacer("{id}", id, "{asset}", asset)
	var lines []string
	for line := range strings.Lines(request) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	if lines[0] == "AWAIT" {
		return s.settle(last)
	}
	method, path, _ := strings.Cut(known.Replace(s.expand(lines[0])), " ")
	s.header = http.Header{}
	body := ""
	for i, line := range lines[1:] {
		if line == "" {
			body = known.Replace(s.expand(strings.Join(lines[i+2:], "\n")))
			break
		}
		k, v, _ := strings.Cut(line, ": ")
		if v == "{etag}" {
			v = last.header.Get("ETag")
		}
		s.header.Set(k, v)
	}
	if path == "{next}" {
		path, _ = last.body["nextLink"].(string)
	}
	if path == "{location}" {
		path = last.header.Get("Location")
	}
	return s.do(method, strings.ReplaceAll(path, " ", "%20"), body)
}

func (s *server) expand(text string) string {
	for _, short := range [][2]string{
		{"{mms}", "/modelmanagement/v1.0{ml}/ws"},
		{"{artifacts}", "/artifact/v2.0{ml}/ws/artifacts"},
		{"{ml}", "{rg}/providers/Microsoft.MachineLearningServices/workspaces"},
		{"{mc}", "{rg}/providers/Microsoft.ContainerService/managedClusters"},
		{"{rg}", "{sub}/resourceGroups/rg"},
		{"{sub}", s.sub()},
	} {
		text = strings.ReplaceAll(text, short[0], short[1])
	}
	return text
}

// What differs from run to run, and what stands for it.
var volatile = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`berth[0-9a-f]{16}\.blob`), "{account}.blob"},
	{regexp.MustCompile(`https://127\.0\.0\.\d+:\d+`), "{cluster}"},
	{regexp.MustCompile(`[a-z0-9-]+\.hcp\.`), "{dns}.hcp."},
	{regexp.MustCompile(`("dnsPrefix": "[a-z0-9]+-)[0-9a-f]+"`), `${1}{hash}"`},
	{regexp.MustCompile(`("resourceUID": )"[0-9a-f]+"`), `${1}"{hash}"`},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "{guid}"},
	{regexp.MustCompile(`\b((?:cluster(?:Admin|User)_)?[a-z]+)[0-9a-f]{10}\b`), "${1}{hash}"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)`), "{time}"},
	{regexp.MustCompile(`[A-Za-z0-9+/=]{100,}`), `{base64}`},
	{regexp.MustCompile(`("e[tT]ag": )"(\\"|[^"])*"`), `$1"{etag}"`},
	{regexp.MustCompile(`(sig|\?se)=[^"&\\]+`), "${1}={signed}"},
	{regexp.MustCompile(`\d{14}\|`), "{time}|"},
	{regexp.MustCompile(`(%24|\$)skiptoken=[^"&]+`), "${1}skiptoken={cursor}"},
}

// golden writes an answer as the files have it.
func (s *server) golden(r reply) string {
	var b strings.Builder
	fmt.Fprintf(&b, "< %d\n", r.status)
	shown := []string{"Allow", "Azure-Asyncoperation", "Content-Type", "Etag", "Location", "Operation-Location", "Retry-After", "Www-Authenticate", "X-Ms-Error-Code"}
	for _, k := range slices.Sorted(maps.Keys(r.header)) {
		v := strings.Join(r.header[k], ", ")
		if k == "Etag" {
			v = "{etag}"
		}
		if slices.Contains(shown, k) {
			fmt.Fprintf(&b, "< %s: %s\n", k, v)
		}
	}
	if r.raw != "" {
		var pretty bytes.Buffer
		if json.Indent(&pretty, []byte(r.raw), "", "  ") == nil {
			b.WriteString(pretty.String() + "\n")
		} else {
			b.WriteString(strings.TrimSpace(r.raw) + "\n")
		}
	}
	text := strings.NewReplacer(s.info.SubscriptionID, "{subscription}", s.info.URL, "{url}").Replace(b.String())
	text = strings.TrimRight(text, "\n") + "\n"
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.instead)
	}
	return text
}

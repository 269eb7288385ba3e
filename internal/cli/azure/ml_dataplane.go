package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/mlclient"
)

// place is where commands of the data plane work.
type place struct{ group, workspace string }

// flags adds -g and -w.
func (p *place) flags(e *cmd.Env, c *cobra.Command) {
	groupFlag(e, c, &p.group, true)
	workspaceFlag(e, c, &p.group, &p.workspace)
}

func (p *place) open(ctx context.Context, s *session) (*mlclient.Client, error) {
	return mlclient.Open(ctx, s.Client, s.workspace(p.group, p.workspace), mlVersion)
}

// dataPlane makes a verb's work of one that needs the workspace's data plane.
func (p *place) dataPlane(do func(ctx context.Context, s *session, ml *mlclient.Client) (any, error)) func(context.Context, *session) (any, error) {
	return func(ctx context.Context, s *session) (any, error) {
		ml, err := p.open(ctx, s)
		if err != nil {
			return nil, err
		}
		return do(ctx, s, ml)
	}
}

// offer registers completion of a flag by a field of what a list of the data plane has.
func (p *place) offer(e *cmd.Env, c *cobra.Command, flag, list, field string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := newSession(e)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer s.Close()
		ml, err := p.open(c.Context(), s)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		items, err := s.List(c.Context(), armclient.Request{Path: ml.Models(list)})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				out = append(out, fmt.Sprint(m[field]))
			}
		}
		sort.Strings(out)
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}

// aliases lets flags be given by the v1 extension's short names, which have two letters and two dashes.
func aliases(c *cobra.Command, short map[string]string) {
	c.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if long, ok := short[name]; ok {
			name = long
		}
		return pflag.NormalizedName(name)
	})
}

// also tells in a flag's usage what else it is called.
func also(usage, alias string) string {
	if alias == "" {
		return usage
	}
	return usage + " (also --" + alias + ")"
}

// pairs reads the key=value of a flag that may be repeated.
func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, item := range list {
		k, v, ok := strings.Cut(item, "=")
		if !ok || k == "" {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--%s: %q is not key=value", flag, item)}
		}
		out[k] = v
	}
	return out, nil
}

// setting is a value that a flag may leave alone, set, or set to false or 0.
type setting struct {
	kind  string
	given any // nil for what was not said
}

// Kinds of settings, as help shows them.
const (
	kindText   = "string"
	kindCount  = "int"
	kindNumber = "float"
	kindTruth  = "true|false"
)

func (s *setting) Type() string { return s.kind }

func (s *setting) String() string {
	if s.given == nil {
		return ""
	}
	return fmt.Sprint(s.given)
}

func (s *setting) Set(given string) error {
	var err error
	switch s.kind {
	case kindCount:
		s.given, err = strconv.Atoi(given)
	case kindNumber:
		s.given, err = strconv.ParseFloat(given, 64)
	case kindTruth:
		s.given, err = strconv.ParseBool(strings.ToLower(given))
	default:
		s.given = given
	}
	if err != nil {
		return fmt.Errorf("%q is not of the kind %s", given, s.kind)
	}
	return nil
}

// readDocument reads a JSON or YAML file.
func readDocument(flag, file string) (map[string]any, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("--%s: %s is neither JSON nor YAML with keys and values: %w", flag, file, err)
	}
	return doc, nil
}

// upload sends files, and shows how far it is.
func upload(ctx context.Context, ml *mlclient.Client, p *cmd.Progress, container string, files []mlclient.File) error {
	var size int64
	for _, f := range files {
		size += f.Size
	}
	what := fmt.Sprintf("%d files", len(files))
	if len(files) == 1 {
		what = files[0].Path
	}
	return transfer(func(count func(int64)) error { return ml.Upload(ctx, container, files, count) }, func(n int64) {
		p.Update(fmt.Sprintf("uploading %s, %d%% of %s", what, tens(n, size), readable(size)), "")
	})
}

// download gets files, and shows how far it is.
func download(ctx context.Context, ml *mlclient.Client, p *cmd.Progress, files []mlclient.Stored, dir string, overwrite bool) error {
	what := fmt.Sprintf("%d files", len(files))
	if len(files) == 1 {
		what = files[0].Path
	}
	shown := int64(-1)
	return transfer(func(count func(int64)) error { return ml.Download(ctx, files, dir, overwrite, count) }, func(n int64) {
		if n/step != shown { // a log of it stays short
			shown = n / step
			p.Update(fmt.Sprintf("downloading %s, %s so far", what, readable(n)), "")
		}
	})
}

// step is how many bytes of a download make a line of its log.
const step = 256 << 20

// transfer runs something that counts bytes, and shows the count from one goroutine: Progress is for one.
func transfer(run func(count func(int64)) error, show func(int64)) error {
	counts := make(chan int64)
	done := make(chan error)
	go func() {
		done <- run(func(n int64) { counts <- n })
	}()
	var most int64
	for {
		select {
		case n := <-counts:
			most = max(most, n)
			show(most)
		case err := <-done:
			return err
		}
	}
}

// tens is a part in percent, rounded down to tens, so that a log of it stays short.
func tens(part, whole int64) int64 {
	if whole == 0 {
		return 100
	}
	return part * 10 / whole * 10
}

func readable(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d bytes", n)
	}
	value, names := float64(n), []string{"kB", "MB", "GB", "TB"}
	for i, name := range names {
		if value /= unit; value < unit || i == len(names)-1 {
			return fmt.Sprintf("%.1f %s", value, name)
		}
	}
	return ""
}

// send sends a request that begins an operation, and waits for that unless asked not to.
func (s *session) send(ctx context.Context, ml *mlclient.Client, p *cmd.Progress, method, at string, body any, noWait bool) (*armclient.Response, error) {
	res, err := ml.Do(ctx, method, at, nil, body)
	if err != nil || noWait {
		return res, err
	}
	phase := "waiting"
	return res, ml.Wait(ctx, res, func(line string) {
		if line != "" {
			phase = strings.TrimSuffix(line, ".")
		}
		p.Update(phase, "")
	})
}

// labels renames what model management calls kvTags, as the v1 extension shows it.
func labels(m map[string]any) map[string]any {
	if tags, ok := m["kvTags"]; ok {
		m["tags"] = tags
		delete(m, "kvTags")
	}
	return m
}

func rename(m map[string]any, names map[string]string) {
	for from, to := range names {
		if v, ok := m[from]; ok {
			m[to] = v
			delete(m, from)
		}
	}
}

// absent is the error for something that a list does not have.
func absent(code, format string, args ...any) error {
	return &armclient.Error{Status: http.StatusNotFound, Code: code, Message: fmt.Sprintf(format, args...)}
}

// filters are the query of a list: only what was given.
func filters(given map[string]string) url.Values {
	q := url.Values{}
	for k, v := range given {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

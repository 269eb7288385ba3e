// Package azure has az's command tree for what Berth has: the same nouns, verbs and flags,
// and the same output. Each command is a request to the public API and no more.
package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

// API versions of the requests.
const (
	resourcesVersion = "2021-04-01"
	aksVersion       = "2026-06-01"
	mlVersion        = "2024-04-01"
)

// Commands are the nouns at the top.
func Commands(e *cmd.Env) []*cobra.Command {
	return []*cobra.Command{newAccount(e), newAKS(e), newGroup(e), newML(e), newProvider(e), newResource(e), newREST(e)}
}

// noun is a command that only has others below it.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	names := make([]string, len(verbs))
	for i, v := range verbs {
		names[i] = v.Name()
	}
	c.Long = short + "\n\nVerbs: " + strings.Join(names, ", ") + "."
	c.AddCommand(verbs...)
	return c
}

// verb is a command that sends requests.
type verb struct {
	use, short, example string
	table               string // JMESPath that shapes the result for -o table
	long                string
	// flags declares what the command takes and returns what carries it out.
	flags func(c *cobra.Command) func(ctx context.Context, s *session) (any, error)
}

func (v verb) command(e *cmd.Env) *cobra.Command {
	c := &cobra.Command{Use: v.use, Short: v.short, Long: v.long, Example: v.example, Args: cobra.NoArgs}
	do := v.flags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		p := e.Printer(v.table)
		if err := p.Check(); err != nil {
			return &cmd.UsageError{Err: err}
		}
		s, err := newSession(e)
		if err != nil {
			return err
		}
		defer s.Close()
		out, err := do(c.Context(), s)
		if err != nil {
			return err
		}
		return p.Print(out)
	}
	return c
}

// session is a client with the subscription to use.
type session struct {
	*armclient.Client
	env          *cmd.Env
	state        *cmd.State
	subscription string
}

func newSession(e *cmd.Env) (*session, error) {
	client, state, err := e.Client()
	if err != nil {
		return nil, err
	}
	sub := e.SubID
	if sub == "" {
		sub = state.SubscriptionID
	}
	return &session{Client: client, env: e, state: state, subscription: sub}, nil
}

func (s *session) sub() string { return "/subscriptions/" + url.PathEscape(s.subscription) }

func (s *session) group(name string) string {
	return s.sub() + "/resourceGroups/" + url.PathEscape(name)
}

// scope is where a list looks: the group, or with "" the whole subscription.
func (s *session) scope(group string) string {
	if group == "" {
		return s.sub()
	}
	return s.group(group)
}

func (s *session) get(ctx context.Context, path, version string) (map[string]any, error) {
	res, err := s.Do(ctx, armclient.Request{Method: http.MethodGet, Path: path, Version: version})
	if err != nil {
		return nil, err
	}
	m, _ := res.Body.(map[string]any)
	return m, nil
}

// write sends a PUT, PATCH or DELETE, and waits for its operation unless asked not to.
func (s *session) write(ctx context.Context, title string, r armclient.Request, noWait bool) (any, error) {
	res, err := s.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	if noWait {
		return nil, nil
	}
	p := s.env.NewProgress(title)
	out, err := s.Wait(ctx, res, p.Update)
	p.Done(err)
	return out, err
}

// names registers completion by the names in a list, which is fetched while the user types.
func names(e *cmd.Env, c *cobra.Command, flag string, path func(c *cobra.Command, s *session) string, version string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := newSession(e)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer s.Close()
		list, err := s.List(c.Context(), armclient.Request{Path: path(c, s), Version: version})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				out = append(out, fmt.Sprint(m["name"]))
			}
		}
		sort.Strings(out)
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}

// groupFlag adds -g.
func groupFlag(e *cmd.Env, c *cobra.Command, dest *string, required bool) {
	c.Flags().StringVarP(dest, "resource-group", "g", "", "name of the resource group")
	if required {
		_ = c.MarkFlagRequired("resource-group")
	}
	names(e, c, "resource-group", func(_ *cobra.Command, s *session) string { return s.sub() + "/resourcegroups" }, resourcesVersion)
}

func nameFlag(c *cobra.Command, dest *string, what string) {
	c.Flags().StringVarP(dest, "name", "n", "", "name of the "+what)
	_ = c.MarkFlagRequired("name")
}

// tagsFlag adds --tags. az takes several words after one --tags, which pflag hands on as
// arguments.
func tagsFlag(c *cobra.Command, dest *[]string) {
	c.Flags().StringArrayVar(dest, "tags", nil, "tags as key=value, separated by spaces")
	c.Args = func(c *cobra.Command, args []string) error {
		if c.Flags().Changed("tags") && !slices.ContainsFunc(args, func(a string) bool { return !strings.Contains(a, "=") }) {
			*dest = append(*dest, args...)
			return nil
		}
		return cobra.NoArgs(c, args)
	}
}

func parseTags(list []string) (map[string]string, error) {
	if list == nil {
		return nil, nil
	}
	out := map[string]string{}
	for _, item := range list {
		for word := range strings.FieldsSeq(item) {
			k, v, _ := strings.Cut(word, "=")
			if k == "" {
				return nil, &cmd.UsageError{Err: fmt.Errorf("--tags: %q is not key=value", word)}
			}
			out[k] = v
		}
	}
	return out, nil
}

// notFound reports whether an error says that something is not there.
func notFound(err error) bool {
	var e *armclient.Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// location is a group's location, the default for what is made in it.
func (s *session) location(ctx context.Context, given, group string) (string, error) {
	if given != "" {
		return given, nil
	}
	g, err := s.get(ctx, s.group(group), resourcesVersion)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(g["location"]), nil
}

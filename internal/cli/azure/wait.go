package azure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/cli/output"
)

// waitVerb is the verb wait for what get fetches, as az has it: it ends when the resource
// is as asked for, and fails when it has failed or the time is up. declare adds the flags
// that name the resource.
func waitVerb(e *cmd.Env, short, example string, declare func(*cobra.Command), get func(context.Context, *session) (any, error)) *cobra.Command {
	var created, updated, deleted, exists bool
	var custom string
	var interval, timeout int
	return verb{
		use: "wait", short: short, example: example,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			declare(c)
			f := c.Flags()
			f.BoolVar(&created, "created", false, "wait until its provisioningState is Succeeded")
			f.BoolVar(&updated, "updated", false, "the same as --created")
			f.BoolVar(&deleted, "deleted", false, "wait until it is gone")
			f.BoolVar(&exists, "exists", false, "wait until it is there")
			f.StringVar(&custom, "custom", "", "wait until this JMESPath query of it is true")
			f.IntVar(&interval, "interval", 1, "seconds between two looks")
			f.IntVar(&timeout, "timeout", 3600, "seconds to wait at most")
			c.MarkFlagsOneRequired("created", "updated", "deleted", "exists", "custom")
			c.MarkFlagsMutuallyExclusive("created", "updated", "deleted", "exists", "custom")
			return func(ctx context.Context, s *session) (any, error) {
				if interval < 1 || timeout < 1 {
					return nil, &cmd.UsageError{Err: errors.New("--interval and --timeout are numbers of seconds, 1 or more")}
				}
				if custom != "" {
					if err := output.CheckQuery(custom); err != nil {
						return nil, &cmd.UsageError{Err: fmt.Errorf("--custom: %w", err)}
					}
				}
				fulfilled := func(v any) (bool, error) {
					switch {
					case exists:
						return true, nil
					case custom != "":
						holds, err := output.Search("!(!("+custom+"))", v) // true or false, by JMESPath's own idea of it
						return holds == true, err
					case created || updated:
						return succeeded(v)
					}
					return false, nil // it is to be gone, and is not
				}
				p := e.NewProgress("wait")
				err := poll(ctx, time.Duration(interval)*time.Second, time.Duration(timeout)*time.Second, func() (bool, error) {
					v, err := get(ctx, s)
					if notFound(err) {
						p.Update("not found", "")
						return deleted, nil
					}
					if err != nil {
						return false, err
					}
					p.Update(provisioningState(v), "")
					return fulfilled(v)
				})
				p.Done(err)
				return nil, err
			}
		},
	}.command(e)
}

// poll looks until done says so, fails, or the limit has passed.
func poll(ctx context.Context, every, limit time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-timer.C:
			return fmt.Errorf("it is not as asked for after %v", limit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// succeeded reports whether a resource is ready, and fails when it never will be.
func succeeded(v any) (bool, error) {
	switch state := provisioningState(v); state {
	case "Succeeded":
		return true, nil
	case "Failed", "Canceled":
		return false, fmt.Errorf("its provisioningState is %s. Show it to see why", state)
	}
	return false, nil
}

// provisioningState is a resource's, whether it has been flattened or not.
func provisioningState(v any) string {
	m, _ := v.(map[string]any)
	if props, ok := m["properties"].(map[string]any); ok {
		m = props
	}
	state, _ := m["provisioningState"].(string)
	return state
}

package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults is what goes wrong in a fake provider. The zero value is: nothing.
type Faults struct {
	// FailEnsureAt lists the Ensure calls that fail, counted from 1 over all clusters.
	FailEnsureAt []int
	// EnsureError is what those calls return. Default: a transient error.
	EnsureError error
	// BlockFor delays every Ensure call; a cancelled context ends the wait.
	BlockFor time.Duration
	// ReadyAfter is the time from creation until a cluster is Ready.
	ReadyAfter time.Duration
	// VanishAfter is the time from creation until a cluster disappears; 0 means never.
	VanishAfter time.Duration
	// StaleCredentials makes Credentials return ones that the cluster does not accept.
	StaleCredentials bool
}

var errInjected = errors.New("the fake provider was told to fail this call (failEnsureAt)")

// ParseFaults reads faults from text such as "failEnsureAt=1+3,readyAfter=2s,staleCredentials".
// The names are those of the fields of Faults, with a small first letter.
func ParseFaults(text string) (Faults, error) {
	var f Faults
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, value, _ := strings.Cut(item, "=")
		if err := f.set(name, value); err != nil {
			return Faults{}, fmt.Errorf("fault %q: %w", item, err)
		}
	}
	return f, nil
}

func (f *Faults) set(name, value string) (err error) {
	switch name {
	case "failEnsureAt":
		for number := range strings.SplitSeq(value, "+") {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a call's number; write for instance failEnsureAt=1+3", number)
			}
			f.FailEnsureAt = append(f.FailEnsureAt, n)
		}
	case "blockFor":
		f.BlockFor, err = time.ParseDuration(value)
	case "readyAfter":
		f.ReadyAfter, err = time.ParseDuration(value)
	case "vanishAfter":
		f.VanishAfter, err = time.ParseDuration(value)
	case "staleCredentials":
		f.StaleCredentials = true
	default:
		return errors.New("unknown; use failEnsureAt, blockFor, readyAfter, vanishAfter or staleCredentials")
	}
	return err
}

// beforeEnsure blocks and fails as configured for the n-th call.
func (f Faults) beforeEnsure(ctx context.Context, n int) error {
	if f.BlockFor > 0 {
		timer := time.NewTimer(f.BlockFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !slices.Contains(f.FailEnsureAt, n) {
		return nil
	}
	if f.EnsureError != nil {
		return f.EnsureError
	}
	return errInjected
}

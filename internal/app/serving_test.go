package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/attachment"
)

// All web services of a compute ask once in a moment how its front end does; what could not be read is asked again.
func TestFrontsAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, broken := 0, error(nil)
		f := &fronts{now: time.Now, ask: func(_ context.Context, _ []byte, a attachment.Attachment) (attachment.FrontEndStatus, error) {
			asked++
			return attachment.FrontEndStatus{Address: "of " + a.Compute}, broken
		}}
		look := func(compute string, want int) {
			t.Helper()
			s, err := f.status(t.Context(), nil, attachment.Attachment{Compute: compute})
			if !errors.Is(err, broken) || err == nil && s.Address != "of "+compute || asked != want {
				t.Errorf("%s: %+v, %v, asked %d times, want %d", compute, s, err, asked, want)
			}
		}
		look("a", 1)
		look("a", 1)
		look("b", 2)
		time.Sleep(frontAge - time.Millisecond)
		look("a", 2)
		time.Sleep(time.Millisecond)
		look("a", 3)
		time.Sleep(time.Hour)
		broken = errors.New("no answer")
		look("a", 4)
		look("a", 5)
		if len(f.seen) != 0 {
			t.Errorf("it remembers %d computes", len(f.seen))
		}
	})
}

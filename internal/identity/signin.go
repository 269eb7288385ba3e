package identity

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"
)

// Guessing is slowed down per client ID and per user name: after freeGuesses failures in a
// row every further one locks the name for twice as long as the last, up to maxLock.
const (
	freeGuesses  = 10
	maxLock      = time.Minute
	guessedNames = 4096 // names remembered at most; the least recently used goes first
)

type guesses struct {
	failures int
	until    time.Time
}

type guessLimiter struct {
	mu    sync.Mutex
	names *lru.Cache[string, guesses]
}

func newGuessLimiter() *guessLimiter {
	names, err := lru.New[string, guesses](guessedNames)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &guessLimiter{names: names}
}

// wait is how long the name is still locked.
func (l *guessLimiter) wait(name string, now time.Time) time.Duration {
	g, _ := l.names.Get(name)
	return g.until.Sub(now)
}

func (l *guessLimiter) failed(name string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, _ := l.names.Get(name)
	g.failures++
	if over := g.failures - freeGuesses; over >= 0 {
		lock := maxLock
		if over < 6 { // 1 s, 2 s, … 32 s
			lock = time.Second << over
		}
		g.until = now.Add(lock)
	}
	l.names.Add(name, g)
}

func (l *guessLimiter) succeeded(name string) { l.names.Remove(name) }

// signInProgram checks a client ID and secret.
func (s *Service) signInProgram(ctx context.Context, clientID, secret string) (*account, error) {
	name := "app:" + strings.ToLower(clientID)
	a, err := s.lookup(ctx, name)
	if errors.Is(err, ErrNoPrincipal) || err == nil && a.Kind != ServicePrincipal {
		return nil, oauthErrorf(errUnauthorizedClient, 700016,
			"No application with the identifier '%s' is in this tenant. Check the client ID, and that the request goes to the right installation.", printable(clientID))
	} else if err != nil {
		return nil, err
	}
	if err := s.notLocked(name); err != nil {
		return nil, err
	}
	known := a.findSecret(secret)
	if known == nil || s.now().Add(clockSkew).Before(known.Start) {
		s.guesses.failed(name, s.now())
		return nil, oauthErrorf(errInvalidClient, 7000215, "The client secret of app '%s' is not valid. Send the secret's value, as it was shown when it was made.", a.AppID)
	}
	if !known.End.IsZero() && !s.now().Before(known.End) {
		return nil, oauthErrorf(errInvalidClient, 7000222, "The client secret of app '%s' expired at %s. Make a new one: az ad sp credential reset --id %s", a.AppID, known.End.UTC().Format(time.RFC3339), a.AppID)
	}
	s.guesses.succeeded(name)
	if !a.Enabled {
		return nil, oauthErrorf(errUnauthorizedClient, 7000112, "Application '%s' is disabled.", a.AppID)
	}
	return a, nil
}

// signInPerson checks a user name and password.
func (s *Service) signInPerson(ctx context.Context, userName, password string) (*account, error) {
	wrong := oauthErrorf(errInvalidGrant, 50126, "The user name or password is wrong.")
	if !userNameForm.MatchString(userName) {
		return nil, wrong // nobody has such a name, and the limiter need not remember it
	}
	name := "user:" + strings.ToLower(userName)
	a, err := s.lookup(ctx, name)
	if err != nil && !errors.Is(err, ErrNoPrincipal) {
		return nil, err
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Only now: guesses sent at once must not all pass before the first has failed.
	if err := s.notLocked(name); err != nil {
		return nil, err
	}
	if !s.hasPassword(a, password) {
		s.guesses.failed(name, s.now())
		return nil, wrong
	}
	s.guesses.succeeded(name)
	if !a.Enabled {
		return nil, oauthErrorf(errInvalidGrant, 50057, "The user account is disabled.")
	}
	return a, nil
}

// hasPassword also does the work of a comparison when there is no such user, so that the
// answer takes the same time.
func (s *Service) hasPassword(a *account, password string) bool {
	if a == nil {
		_, _ = bcrypt.GenerateFromPassword([]byte(password[:min(len(password), maxPassword)]), s.hashCost) // only for the time it takes
		return false
	}
	return bcrypt.CompareHashAndPassword([]byte(a.Password), []byte(password)) == nil
}

func (s *Service) notLocked(name string) error {
	wait := s.guesses.wait(name, s.now())
	if wait <= 0 {
		return nil
	}
	e := oauthErrorf(errInvalidGrant, 50053, "Too many failed sign-ins. Try again in %d seconds.", int(wait/time.Second)+1)
	e.status = http.StatusTooManyRequests
	e.retryAfter = wait
	return e
}

package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/store"
)

// ARM's codes for a request that it cannot tell the sender of. All are answered with
// 401 and a WWW-Authenticate header that names where to get a token.
const (
	CodeAuthenticationFailed = armerr.CodeAuthenticationFailed // no token
	CodeInvalidToken         = "InvalidAuthenticationToken"    // malformed, forged, or of a principal that is gone
	CodeExpiredToken         = "ExpiredAuthenticationToken"
	CodeInvalidTokenTenant   = "InvalidAuthenticationTokenTenant"
	CodeInvalidTokenAudience = "InvalidAuthenticationTokenAudience"
)

const (
	// clockSkew is how far the clock of another replica may be off.
	clockSkew = time.Minute
	// recheckInterval bounds how long a principal that another process disabled is still let in.
	recheckInterval = 30 * time.Second
	// cachedTokens bounds the cache; an entry takes some 300 bytes.
	cachedTokens = 8192
	// maxToken bounds what is parsed. Tokens of ours have about 1.2 kB.
	maxToken = 16 << 10
)

// Authenticate returns the principal whose bearer token for ARM the request carries.
// Any error it returns is an *armerr.Error ready to be written, unless the store failed.
func (s *Service) Authenticate(ctx context.Context, r *http.Request) (Principal, error) {
	return s.AuthenticateFor(ctx, r, ARM)
}

// AuthenticateFor is Authenticate for a service that takes tokens of the given
// audiences.
func (s *Service) AuthenticateFor(ctx context.Context, r *http.Request, accept ...Audience) (Principal, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if token == "" || !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, s.unauthorized(r.Host, CodeAuthenticationFailed,
			"Authentication failed. The 'Authorization' header is missing or does not hold a bearer token. Sign in and send 'Authorization: Bearer <token>'.")
	}
	key := sha256.Sum256([]byte(token))
	known, ok := s.verified.get(key, s.now())
	if !ok {
		var err error
		if known, err = s.verify(ctx, r.Host, token); err != nil {
			return Principal{}, err
		}
		s.verified.add(key, known)
	}
	if !slices.Contains(accept, known.audience) {
		return Principal{}, s.unauthorized(r.Host, CodeInvalidTokenAudience,
			"The access token was issued for %s, which is not what this is. Ask for a token for %s.", known.audience, accept[0])
	}
	return known.principal, nil
}

// verifiedToken is what is remembered of a token that verify accepted.
type verifiedToken struct {
	principal Principal
	audience  Audience
	notAfter  time.Time // the token expires
	recheck   time.Time // the principal has to be looked up again
	epoch     uint64
}

func (s *Service) verify(ctx context.Context, host, token string) (*verifiedToken, error) {
	epoch := s.verified.epoch.Load() // before the principal is read
	invalid := func(why string) error {
		return s.unauthorized(host, CodeInvalidToken, "The access token is invalid: %s. Sign in again.", why)
	}
	if len(token) > maxToken {
		return nil, invalid("it is too long")
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(parsed.Headers) != 1 {
		return nil, invalid("it is not a JSON web token signed with RS256")
	}
	key, err := s.keys.find(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	if key == nil {
		return nil, invalid("this installation does not know the key that signed it")
	}
	var c accessClaims
	if err := parsed.Claims(key, &c); err != nil {
		return nil, invalid("its signature does not match")
	}

	now := s.now()
	expires := time.Unix(c.Expires, 0)
	switch {
	case c.Tenant != s.tenant:
		return nil, s.unauthorized(host, CodeInvalidTokenTenant, "The access token is of tenant '%s'; this installation's tenant is '%s'.", printable(c.Tenant), s.tenant)
	case c.Issuer != s.issuer():
		return nil, invalid("it has another issuer; an ID token is not an access token")
	case now.Add(clockSkew).Before(time.Unix(c.NotBefore, 0)):
		return nil, invalid("it is not valid yet; check the clocks")
	case !now.Add(-clockSkew).Before(expires):
		return nil, s.unauthorized(host, CodeExpiredToken, "The access token expired at %s, it is %s now. Get a new one.", expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	aud, ok := s.resource(c.Audience)
	if !ok {
		return nil, s.unauthorized(host, CodeInvalidTokenAudience, "The access token is for '%s', which is not this installation. Ask for one for https://management.azure.com/.", printable(c.Audience))
	}

	var a *account
	err = s.store.View(ctx, func(tx store.ReadTx) (err error) {
		a, err = accountByID(tx, c.ObjectID)
		return err
	})
	switch {
	case errors.Is(err, ErrNoPrincipal):
		return nil, invalid("its principal does not exist any more")
	case err != nil:
		return nil, fmt.Errorf("look up principal %s: %w", c.ObjectID, err)
	case !a.Enabled:
		return nil, invalid("its principal is disabled; an administrator can enable it")
	}
	p := a.principal(s.tenant)
	p.AppID = c.AppID
	return &verifiedToken{principal: p, audience: aud.audience, notAfter: expires.Add(clockSkew), recheck: now.Add(recheckInterval), epoch: epoch}, nil
}

// unauthorized makes a 401 as ARM's, from which clients learn where to sign in.
func (s *Service) unauthorized(host, code, format string, args ...any) error {
	e := armerr.New(code, format, args...)
	e.Status = http.StatusUnauthorized
	problem := "invalid_token"
	if code == CodeAuthenticationFailed {
		problem = "invalid_request"
	}
	// The header must stay one line of quoted strings whatever the message quotes.
	description := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, e.Message)
	e.Header = http.Header{"Www-Authenticate": {fmt.Sprintf(
		`Bearer authorization_uri="%s/%s", error="%s", error_description="%s"`, s.authority(host), s.tenant, problem, description)}}
	return e
}

// authority is the login host for whoever reached us at host: Berth itself under its own
// address, and Entra's name for clients that are intercepted.
func (s *Service) authority(host string) string {
	if own := "https://" + host; slices.Contains(s.baseURLs, own) {
		return own
	}
	return "https://login.microsoftonline.com"
}

// tokenCache remembers tokens by their SHA-256, so that it holds nothing usable.
type tokenCache struct {
	tokens *lru.Cache[[sha256.Size]byte, *verifiedToken]
	epoch  atomic.Uint64 // raised by purge: entries of an earlier epoch do not count
}

func newTokenCache() *tokenCache {
	tokens, err := lru.New[[sha256.Size]byte, *verifiedToken](cachedTokens)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &tokenCache{tokens: tokens}
}

func (c *tokenCache) get(key [sha256.Size]byte, now time.Time) (*verifiedToken, bool) {
	t, ok := c.tokens.Get(key)
	if !ok || t.epoch != c.epoch.Load() || !now.Before(t.notAfter) || !now.Before(t.recheck) {
		return nil, false
	}
	return t, true
}

func (c *tokenCache) add(key [sha256.Size]byte, t *verifiedToken) { c.tokens.Add(key, t) }

// purge forgets everything, also what a verification under way is about to add.
func (c *tokenCache) purge() {
	c.epoch.Add(1)
	c.tokens.Purge()
}

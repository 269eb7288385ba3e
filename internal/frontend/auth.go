package frontend

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthdev/berth/internal/route"
)

// tokens remembers tokens that were verified, until they expire: a signature costs more than all
// else that the front end does to a request.
type tokens struct {
	mu       sync.Mutex
	verified map[string]time.Time // until when
}

const maxTokens = 10000 // remembered for one service

func bearer(r *http.Request) string {
	kind, text, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(kind, "Bearer") {
		return ""
	}
	return strings.TrimSpace(text)
}

// authorized says why a caller may not call a service, "" when it may.
func authorized(e *entry, r *http.Request, now time.Time) string {
	a := &e.route.Auth
	if a.Mode == route.AuthNone {
		return ""
	}
	if r.Header.Get("Authorization") == "" {
		return "Unauthorized, no Auth Header. Send Authorization: Bearer {key or token}."
	}
	given := bearer(r)
	if given == "" {
		return "Unauthorized, the Auth Header is not of the form: Bearer {key or token}."
	}
	if a.Mode == route.AuthKey {
		if a.HasKey(given) {
			return ""
		}
		return "Unauthorized, invalid key. Read the keys with get_keys(); they change when they are regenerated."
	}
	return e.tokens.check(a, given, now)
}

func (t *tokens) check(a *route.Auth, text string, now time.Time) string {
	t.mu.Lock()
	until, known := t.verified[text]
	t.mu.Unlock()
	if known && now.Before(until) {
		return ""
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "Unauthorized, the token is malformed. Get one with get_token()."
	}
	var claims jwt.Claims
	if err := parsed.Claims(a.TokenKeys, &claims); err != nil {
		return "Unauthorized, the token was not signed for this service. Get one with get_token()."
	}
	err = claims.ValidateWithLeeway(jwt.Expected{Issuer: a.Issuer, AnyAudience: jwt.Audience{a.Audience}, Time: now}, time.Minute)
	if err != nil || claims.Expiry == nil {
		return "Unauthorized, the token has expired or is for another service. Get a new one with get_token()."
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.verified) >= maxTokens {
		clear(t.verified)
	}
	t.verified[strings.Clone(text)] = claims.Expiry.Time() // text is a part of all of the header
	return ""
}

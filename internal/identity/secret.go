package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/store"
)

// ErrNoSecret says that a service principal has no secret with the given key ID.
var ErrNoSecret = errors.New("no such secret")

const (
	// maxSecrets bounds what a sign-in has to compare with.
	maxSecrets = 100
	// hintLength is how much of a secret is shown to tell it from others. 240 of its 256
	// random bits stay unknown.
	hintLength = 3
	// defaultYears is the lifetime of a secret whose maker names no end, as in Entra.
	defaultYears = 2
)

// Secret is what the directory shows of a client secret: all but its value.
type Secret struct {
	KeyID       string    `json:"keyId"` // GUID
	DisplayName string    `json:"displayName,omitempty"`
	Hint        string    `json:"hint"` // its first characters
	Start       time.Time `json:"start"`
	End         time.Time `json:"end,omitzero"` // zero: it never expires
}

// secret is the stored form.
type secret struct {
	Secret
	Hash []byte `json:"hash"` // hashSecret
}

// addSecret gives the account a secret with s's name and times, and returns its value.
func (a *account) addSecret(s Secret) string {
	value := randomToken()
	for strings.HasPrefix(value, "-") { // command lines would take it for an option
		value = randomToken()
	}
	s.KeyID, s.Hint = uuid.NewString(), value[:hintLength]
	a.Secrets = append(a.Secrets, secret{s, hashSecret(a.AppID, value)})
	return value
}

// findSecret returns the account's secret with the value, expired or not; nil if it has none.
func (a *account) findSecret(value string) (found *secret) {
	sum := hashSecret(a.AppID, value)
	for i := range a.Secrets {
		if subtle.ConstantTimeCompare(a.Secrets[i].Hash, sum) == 1 {
			found = &a.Secrets[i]
		}
	}
	return found
}

// hashSecret hashes a client secret, salted with the application's ID. A fast hash is
// enough: secrets are 256 random bits of our own making, beyond any guessing.
func hashSecret(appID, secret string) []byte {
	sum := sha256.Sum256([]byte(appID + "\x00" + secret))
	return sum[:]
}

// randomToken returns 256 random bits as 43 URL-safe characters.
func randomToken() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}

// AddSecret gives a service principal one more secret. Of want it takes the name and the
// times; Start zero means now, End zero two years later. It returns what the directory shows of the secret, and the
// credentials with its value, which are not shown again. Errors: ErrNoPrincipal, *InvalidError.
func (s *Service) AddSecret(ctx context.Context, objectID string, want Secret) (made Secret, c Credentials, err error) {
	if want.Start.IsZero() {
		want.Start = s.now()
	}
	if want.End.IsZero() {
		want.End = want.Start.AddDate(defaultYears, 0, 0)
	}
	want.Start, want.End = want.Start.UTC(), want.End.UTC()
	if !want.Start.Before(want.End) {
		return Secret{}, Credentials{}, invalidf("a secret ends after it starts: %s is not after %s", want.End.Format(time.RFC3339), want.Start.Format(time.RFC3339))
	}
	if len(want.DisplayName) > maxDisplayName {
		return Secret{}, Credentials{}, invalidf("a secret's display name has at most %d bytes", maxDisplayName)
	}
	err = s.change(ctx, objectID, func(_ store.Tx, a *account) error {
		switch {
		case a.Kind != ServicePrincipal:
			return invalidf("%s is a user: users have passwords, not secrets", a.Name)
		case len(a.Secrets) >= maxSecrets:
			return invalidf("%s has %d secrets already, which is the most: remove one first", a.Name, maxSecrets)
		}
		c = Credentials{Secret: a.addSecret(want), Principal: a.principal(s.tenant)}
		made = a.Secrets[len(a.Secrets)-1].Secret
		return nil
	})
	if err != nil {
		return Secret{}, Credentials{}, err
	}
	return made, c, nil
}

// RemoveSecret makes a secret useless for signing in. Tokens that were issued for it stay
// valid until they expire, as Entra's do. Errors: ErrNoPrincipal, ErrNoSecret.
func (s *Service) RemoveSecret(ctx context.Context, objectID, keyID string) error {
	return s.change(ctx, objectID, func(_ store.Tx, a *account) error {
		kept := slices.DeleteFunc(a.Secrets, func(s secret) bool { return strings.EqualFold(s.KeyID, keyID) })
		if len(kept) == len(a.Secrets) {
			return ErrNoSecret
		}
		a.Secrets = kept
		return nil
	})
}

package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// Buckets of what was promised to clients. Keys are hashes of codes and tokens, so the
// store holds none that could be used.
const (
	bucketCodes   = "identity.codes"
	bucketRefresh = "identity.refresh"
	bucketDevices = "identity.devices"
	bucketUserIDs = "identity.usercodes" // user code → key in bucketDevices
)

const (
	codeLifetime    = 5 * time.Minute
	deviceLifetime  = 15 * time.Minute
	refreshLifetime = 90 * 24 * time.Hour
	// refreshGrace is how long a refresh token works after its replacement was issued:
	// parallel processes that share a token cache all send the same one.
	refreshGrace = 10 * time.Minute
	// reuseWatch is how long a replaced refresh token is remembered, to notice a thief.
	reuseWatch    = 24 * time.Hour
	pruneInterval = 10 * time.Minute
	maxDevices    = 1000 // device sign-ins that can be under way
)

// grant is what a code or a refresh token stands for.
type grant struct {
	ObjectID string    `json:"objectId,omitempty"`
	ClientID string    `json:"clientId,omitempty"`
	Request  request   `json:"request"`
	Expires  time.Time `json:"expires"`

	// Authorization codes.
	RedirectURI string `json:"redirectUri,omitempty"`
	Challenge   string `json:"challenge,omitempty"` // PKCE, S256
	Nonce       string `json:"nonce,omitempty"`

	// Refresh tokens. A family descends from one sign-in.
	Family   string     `json:"family,omitempty"`
	Replaced *time.Time `json:"replaced,omitempty"`

	// Device codes. ObjectID is set by the person who signs in.
	UserCode string `json:"userCode,omitempty"`
	Declined bool   `json:"declined,omitempty"`

	// User codes.
	Device string `json:"device,omitempty"`
}

// grantKey is the key under which a code or token is stored.
func grantKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// issue stores a grant and returns the secret that stands for it.
func (s *Service) issue(ctx context.Context, bucket string, g *grant) (string, error) {
	token := randomToken()
	s.prune(ctx)
	return token, s.store.Update(ctx, func(tx store.Tx) error {
		return putJSON(tx, bucket, grantKey(token), g)
	})
}

// liveGrant reads a grant that has not expired. Errors: store.ErrNotFound.
func (s *Service) liveGrant(tx store.ReadTx, bucket, key string) (*grant, error) {
	g := new(grant)
	if err := getJSON(tx, bucket, key, g); err != nil {
		return nil, err
	}
	if !s.now().Before(g.Expires) {
		return nil, store.ErrNotFound
	}
	return g, nil
}

// takeCode redeems an authorization code. Whatever comes of it, the code is spent: a
// second try could only be somebody who guesses the verifier.
func (s *Service) takeCode(ctx context.Context, code string) (g *grant, err error) {
	err = s.store.Update(ctx, func(tx store.Tx) error {
		if g, err = s.liveGrant(tx, bucketCodes, grantKey(code)); err != nil {
			return err
		}
		return tx.PutValue(bucketCodes, grantKey(code), nil)
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, oauthErrorf(errInvalidGrant, 70008, "The authorization code is unknown, expired, or was redeemed before. Sign in again.")
	}
	return g, err
}

// rotate exchanges a refresh token for a new one of its family. A token that was
// replaced a while ago can only come from a copy; then the whole family ends, because
// there is no telling which of its holders is the thief.
func (s *Service) rotate(ctx context.Context, token, clientID string) (g *grant, next string, err error) {
	next = randomToken()
	var reused bool
	err = s.store.Update(ctx, func(tx store.Tx) error {
		reused = false
		if g, err = s.liveGrant(tx, bucketRefresh, grantKey(token)); err != nil {
			return err
		}
		if g.ClientID != clientID {
			return store.ErrNotFound
		}
		now := s.now()
		if g.Replaced != nil && now.Sub(*g.Replaced) > refreshGrace {
			reused = true
			return removeGrants(tx, bucketRefresh, func(other *grant) bool { return other.Family == g.Family })
		}
		fresh := *g
		fresh.Replaced, fresh.Expires = nil, now.Add(refreshLifetime)
		if err := putJSON(tx, bucketRefresh, grantKey(next), &fresh); err != nil {
			return err
		}
		if g.Replaced == nil {
			g.Replaced, g.Expires = &now, now.Add(reuseWatch)
			return putJSON(tx, bucketRefresh, grantKey(token), g)
		}
		return nil
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, "", oauthErrorf(errInvalidGrant, 700082, "The refresh token is unknown, expired, or was issued to another client. Sign in again.")
	case err != nil:
		return nil, "", err
	case reused:
		s.log.WarnContext(ctx, "a replaced refresh token was used again; its sign-in is ended", "object_id", g.ObjectID, "client_id", g.ClientID)
		return nil, "", oauthErrorf(errInvalidGrant, 50173, "The refresh token was replaced before, so it may have been copied; the sign-in is ended. Sign in again.")
	}
	return g, next, nil
}

// userCodeLetters leaves out vowels, so that no words come up, and what looks alike.
const userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"

func newUserCode() string {
	b := make([]byte, 9)
	_, _ = rand.Read(b) // never fails since Go 1.24
	for i := range b {
		b[i] = userCodeLetters[int(b[i])%len(userCodeLetters)]
	}
	return string(b)
}

// startDevice stores a device sign-in and returns its device code; g.UserCode is set.
func (s *Service) startDevice(ctx context.Context, g *grant) (deviceCode string, err error) {
	deviceCode = randomToken()
	s.prune(ctx)
	return deviceCode, s.store.Update(ctx, func(tx store.Tx) error {
		pending := 0
		if err := tx.Values(bucketDevices, func(string, []byte) error { pending++; return nil }); err != nil {
			return err
		}
		if pending >= maxDevices {
			e := oauthErrorf(errUnavailable, 90055, "Too many device sign-ins are under way. Try again in a few minutes.")
			e.status, e.retryAfter = 429, pruneInterval
			return e
		}
		g.UserCode = newUserCode()
		if err := putJSON(tx, bucketUserIDs, g.UserCode, &grant{Device: grantKey(deviceCode), Expires: g.Expires}); err != nil {
			return err
		}
		return putJSON(tx, bucketDevices, grantKey(deviceCode), g)
	})
}

// deviceByUserCode finds the sign-in that a person was given a code for.
// Errors: store.ErrNotFound.
func (s *Service) deviceByUserCode(tx store.ReadTx, userCode string) (key string, g *grant, err error) {
	index, err := s.liveGrant(tx, bucketUserIDs, userCode)
	if err != nil {
		return "", nil, err
	}
	g, err = s.liveGrant(tx, bucketDevices, index.Device)
	return index.Device, g, err
}

// settleDevice records what the person decided: objectID "" declines. A user code works once.
// Errors: store.ErrNotFound.
func (s *Service) settleDevice(ctx context.Context, userCode, objectID string) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		key, g, err := s.deviceByUserCode(tx, userCode)
		if err != nil {
			return err
		}
		g.ObjectID, g.Declined = objectID, objectID == ""
		if err := tx.PutValue(bucketUserIDs, userCode, nil); err != nil {
			return err
		}
		return putJSON(tx, bucketDevices, key, g)
	})
}

// takeDevice answers a device that polls: its grant once the person has signed in.
func (s *Service) takeDevice(ctx context.Context, deviceCode, clientID string) (g *grant, err error) {
	key := grantKey(deviceCode)
	if err := s.store.View(ctx, func(tx store.ReadTx) error {
		g, err = s.liveGrant(tx, bucketDevices, key)
		return err
	}); errors.Is(err, store.ErrNotFound) || err == nil && g.ClientID != clientID {
		return nil, oauthErrorf(errExpiredToken, 70020, "The device code is unknown, expired, or was redeemed before. Start again.")
	} else if err != nil {
		return nil, err
	}
	switch {
	case g.Declined:
		return nil, oauthErrorf(errAuthorizationDenied, 70018, "The person declined to sign in.")
	case g.ObjectID == "":
		return nil, oauthErrorf(errAuthorizationPending, 70016, "Nobody has entered the code yet. Keep polling.")
	}
	err = s.store.Update(ctx, func(tx store.Tx) error {
		if _, err := s.liveGrant(tx, bucketDevices, key); err != nil {
			return err
		}
		return tx.PutValue(bucketDevices, key, nil)
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, oauthErrorf(errInvalidGrant, 54005, "The device code was redeemed before.")
	}
	return g, err
}

// prune removes expired grants now and then. A failure is only logged: expired grants
// are refused whether they are there or not.
func (s *Service) prune(ctx context.Context) {
	now, last := s.now(), s.pruned.Load()
	if now.Unix()-last < int64(pruneInterval/time.Second) || !s.pruned.CompareAndSwap(last, now.Unix()) {
		return
	}
	err := s.store.Update(ctx, func(tx store.Tx) error {
		for _, bucket := range []string{bucketCodes, bucketRefresh, bucketDevices, bucketUserIDs} {
			if err := removeGrants(tx, bucket, func(g *grant) bool { return now.After(g.Expires) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.WarnContext(ctx, "expired sign-ins could not be removed", "error", err)
	}
}

func removeGrants(tx store.Tx, bucket string, match func(*grant) bool) error {
	var keys []string
	err := tx.Values(bucket, func(key string, value []byte) error {
		var g grant
		if err := json.Unmarshal(value, &g); err != nil {
			return err
		}
		if match(&g) {
			keys = append(keys, key)
		}
		return nil
	})
	for _, key := range keys {
		err = errors.Join(err, tx.PutValue(bucket, key, nil))
	}
	return err
}

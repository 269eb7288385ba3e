package service

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/store"
)

// newKey is a key as the original's: 32 letters and digits.
func newKey() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // it never fails
	return hex.EncodeToString(raw[:])
}

const (
	tokenBucket  = "service-tokens"
	tokenKey     = "signing-key"
	refreshAfter = 12 * time.Hour
	tokenLife    = 24 * time.Hour
)

// Paths of the keys among a row's secrets.
const (
	primaryPath   = "properties.keys.primaryKey"
	secondaryPath = "properties.keys.secondaryKey"
)

// incarnation tells a web service from one that had its name before.
func incarnation(row *store.Resource) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "service:%s:%d", row.Key, row.Created.At.UnixNano())).String()
}

// signingKey is the key that signs the tokens of all web services, made when it is first needed. Only its public part
// leaves the store, in routes.
func (s *Service) signingKey(ctx context.Context) (*ecdsa.PrivateKey, error) {
	var raw []byte
	err := s.Manager.Store.Update(ctx, func(tx store.Tx) error {
		have, err := tx.Value(tokenBucket, tokenKey)
		if err == nil {
			raw = have
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if raw, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
		return tx.PutValue(tokenBucket, tokenKey, raw)
	})
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(raw)
	if err != nil {
		return nil, errors.New("the key that signs tokens cannot be read") // without the cause: it may quote it
	}
	return key.(*ecdsa.PrivateKey), nil
}

const keyID = "1"

// authOf is what a web service wants its callers to show.
func authOf(w *WebService) route.AuthMode {
	switch {
	case *w.AADAuthEnabled:
		return route.AuthToken
	case *w.AuthEnabled:
		return route.AuthKey
	}
	return route.AuthNone
}

// route is what front ends need to know of the web service.
func (s *Service) route(ctx context.Context, o *object, versions []route.Version, auth route.AuthMode) (*route.Route, error) {
	r := &route.Route{Service: o.ID.Name(), ID: incarnation(o.Row), Versions: versions, Auth: route.Auth{Mode: auth}}
	switch auth {
	case route.AuthToken:
		key, err := s.signingKey(ctx)
		if err != nil {
			return nil, err
		}
		r.Auth = route.Auth{Mode: route.AuthToken, Audience: r.ID, Issuer: issuer(o.Row), TokenKeys: &jose.JSONWebKeySet{
			Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"}},
		}}
	case route.AuthKey:
		for _, path := range []string{primaryPath, secondaryPath} {
			key, err := o.Secret(path)
			if err != nil {
				return nil, fmt.Errorf("the service's keys cannot be read: %w", err)
			}
			r.Auth.Keys = append(r.Auth.Keys, route.KeySum(key))
		}
	}
	return r, nil
}

func issuer(row *store.Resource) string { return "https://berth.dev" + row.Parent }

// token is a caller's access to a web service for a day. The front end verifies it by itself.
func (s *Service) token(ctx context.Context, row *store.Resource, caller string) (map[string]any, error) {
	key, err := s.signingKey(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	now := s.Manager.Now()
	text, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: issuer(row), Subject: caller, Audience: jwt.Audience{incarnation(row)}, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(now.Add(tokenLife)),
	}).Serialize()
	if err != nil {
		return nil, err
	}
	return map[string]any{"accessToken": text, "tokenType": "Bearer", "refreshAfter": now.Add(refreshAfter).Unix(), "expiryOn": now.Add(tokenLife).Unix()}, nil
}

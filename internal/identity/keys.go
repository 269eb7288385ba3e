package identity

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berthdev/berth/internal/store"
)

const (
	bucketKeys = "identity.keys"
	// reloadInterval bounds how often a token with an unknown key makes us read the store:
	// another process may have rotated the key, or somebody is sending rubbish.
	reloadInterval = 5 * time.Second
)

// signingKey is the stored form of a key. The newest signs.
type signingKey struct {
	PKCS8   []byte    `json:"pkcs8"`
	Created time.Time `json:"created"`

	id      string
	private *rsa.PrivateKey
}

// keyring holds the signing keys of the store in memory.
type keyring struct {
	store store.Store
	now   func() time.Time

	mu     sync.RWMutex
	keys   []*signingKey // newest last
	loaded time.Time
}

// load reads the keys; with create it makes the first one if there is none.
func (k *keyring) load(ctx context.Context, create bool) error {
	var keys []*signingKey
	err := k.store.View(ctx, func(tx store.ReadTx) (err error) {
		keys, err = readKeys(tx)
		return err
	})
	if err != nil {
		return err
	}
	if len(keys) == 0 && create {
		return k.add(ctx, func(stored []*signingKey) bool { return len(stored) == 0 })
	}
	k.set(keys)
	return nil
}

func (k *keyring) set(keys []*signingKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.loaded = keys, k.now()
}

func (k *keyring) rotate(ctx context.Context) error {
	return k.add(ctx, func([]*signingKey) bool { return true })
}

// add makes a key if wanted still says so inside the transaction, and removes keys
// whose last token has expired.
func (k *keyring) add(ctx context.Context, wanted func(stored []*signingKey) bool) error {
	fresh, err := newSigningKey(k.now())
	if err != nil {
		return err
	}
	var keys []*signingKey
	err = k.store.Update(ctx, func(tx store.Tx) error {
		if keys, err = readKeys(tx); err != nil || !wanted(keys) {
			return err
		}
		keys = append(keys, fresh)
		if err := putJSON(tx, bucketKeys, fresh.id, fresh); err != nil {
			return err
		}
		// keys[0] signed its last token when keys[1] was made. The factor covers replicas
		// that noticed the rotation late.
		for len(keys) > 1 && keys[1].Created.Add(2*tokenLifetime).Before(fresh.Created) {
			if err := tx.PutValue(bucketKeys, keys[0].id, nil); err != nil {
				return err
			}
			keys = keys[1:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	k.set(keys)
	return nil
}

// signer is the key to sign with. It looks at the store now and then, so that a
// rotation by another process is followed well before its old keys are removed.
func (k *keyring) signer(ctx context.Context) (*signingKey, error) {
	k.mu.RLock()
	stale := k.now().Sub(k.loaded) >= tokenLifetime/2
	k.mu.RUnlock()
	if stale {
		if err := k.load(ctx, false); err != nil {
			return nil, err
		}
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[len(k.keys)-1], nil
}

// find returns the public key with the ID, nil if there is none even after a fresh look
// at the store.
func (k *keyring) find(ctx context.Context, id string) (*rsa.PublicKey, error) {
	for fresh := false; ; fresh = true {
		k.mu.RLock()
		for _, key := range k.keys {
			if key.id == id {
				k.mu.RUnlock()
				return &key.private.PublicKey, nil
			}
		}
		stale := k.now().Sub(k.loaded) >= reloadInterval
		k.mu.RUnlock()
		if fresh || !stale {
			return nil, nil
		}
		if err := k.load(ctx, false); err != nil {
			return nil, err
		}
	}
}

// public is the key set that is published.
func (k *keyring) public() jose.JSONWebKeySet {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var set jose.JSONWebKeySet
	for _, key := range k.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &key.private.PublicKey, KeyID: key.id, Algorithm: string(jose.RS256), Use: "sig"})
	}
	return set
}

// readKeys reads all keys, oldest first: their IDs begin with the time they were made.
func readKeys(tx store.ReadTx) ([]*signingKey, error) {
	var keys []*signingKey
	err := tx.Values(bucketKeys, func(id string, value []byte) error {
		key := &signingKey{id: id}
		if err := json.Unmarshal(value, key); err != nil {
			return err
		}
		parsed, err := x509.ParsePKCS8PrivateKey(key.PKCS8)
		if err != nil {
			return fmt.Errorf("key %s: %w", id, err)
		}
		private, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return fmt.Errorf("key %s is a %T, not an RSA key", id, parsed)
		}
		key.private = private
		keys = append(keys, key)
		return nil
	})
	return keys, err
}

func newSigningKey(now time.Time) (*signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	jwk := jose.JSONWebKey{Key: &private.PublicKey}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("name the signing key: %w", err)
	}
	id := fmt.Sprintf("%013d-%s", now.UnixMilli(), base64.RawURLEncoding.EncodeToString(sum[:12]))
	return &signingKey{PKCS8: der, Created: now.UTC(), id: id, private: private}, nil
}

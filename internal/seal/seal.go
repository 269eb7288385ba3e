// Package seal encrypts what must not stand in a file as it is: TLS keys, tokens' signing
// keys, the secrets in documents. Each value has a data key of its own, which is wrapped by
// a key-encryption key that lives in a file of mode 0600 beside the store. The identity
// of the row is authenticated with it, so that a ciphertext cannot be moved to another row.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	keySize  = 32 // AES-256
	idSize   = 8
	format   = 1
	overhead = 12 + 16 // GCM's nonce and tag
)

// ErrOpen says that a value was sealed with another key, for another row, or was changed.
// It has no cause on purpose: nothing about a secret belongs in a message.
var ErrOpen = errors.New("a sealed value cannot be opened: its key is not in the key file, or the value was changed")

// Keyring seals with its newest key and opens with any.
type Keyring struct {
	newest [idSize]byte
	keys   map[[idSize]byte]cipher.AEAD
}

// keyFile is the file's form; the last key is the newest.
type keyFile struct {
	Keys []struct {
		ID  string `json:"id"`
		Key []byte `json:"key"`
	} `json:"keys"`
}

// Open reads the key file, or makes one with a new key. The file is written whole or not
// at all, with mode 0600.
func Open(path string) (*Keyring, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = create(path); err != nil {
			return nil, fmt.Errorf("making the key file %s: %w", path, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w", err)
	}
	var f keyFile
	if err := json.Unmarshal(data, &f); err != nil || len(f.Keys) == 0 {
		return nil, fmt.Errorf("the key file %s is damaged; restore it from a backup, because what it sealed cannot be read without it", path)
	}
	k := &Keyring{keys: map[[idSize]byte]cipher.AEAD{}}
	for _, e := range f.Keys {
		id, err := hex.DecodeString(e.ID)
		if err != nil || len(id) != idSize || len(e.Key) != keySize {
			return nil, fmt.Errorf("the key file %s has a damaged key", path)
		}
		aead, err := newAEAD(e.Key)
		if err != nil {
			return nil, err
		}
		k.newest = [idSize]byte(id)
		k.keys[k.newest] = aead
	}
	return k, nil
}

func create(path string) ([]byte, error) {
	id, key := random(idSize), random(keySize)
	data, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"id": hex.EncodeToString(id), "key": key}}})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if _, err := tmp.Write(data); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	// A link, unlike a rename, does not replace a file that another process made meanwhile.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// Seal encrypts a value for the row that identity names.
func (k *Keyring) Seal(identity string, value []byte) ([]byte, error) {
	dataKey := random(keySize)
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, err
	}
	out := append([]byte{format}, k.newest[:]...)
	out = k.keys[k.newest].Seal(out, nil, dataKey, []byte(identity))
	return aead.Seal(out, nil, value, []byte(identity)), nil
}

// Open decrypts what Seal made for the same identity. Errors: ErrOpen.
func (k *Keyring) Open(identity string, sealed []byte) ([]byte, error) {
	const wrapped = keySize + overhead
	if len(sealed) < 1+idSize+wrapped+overhead || sealed[0] != format {
		return nil, ErrOpen
	}
	kek, ok := k.keys[[idSize]byte(sealed[1:1+idSize])]
	if !ok {
		return nil, ErrOpen
	}
	rest := sealed[1+idSize:]
	dataKey, err := kek.Open(nil, nil, rest[:wrapped], []byte(identity))
	if err != nil {
		return nil, ErrOpen
	}
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, ErrOpen
	}
	value, err := aead.Open(nil, nil, rest[wrapped:], []byte(identity))
	if err != nil {
		return nil, ErrOpen
	}
	return value, nil
}

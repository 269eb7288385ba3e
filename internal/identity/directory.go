package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"

	"github.com/berthdev/berth/internal/store"
)

// Buckets of the store. Names map "app:<appId>" and "user:<name>" to object IDs.
const (
	bucketPrincipals = "identity.principals"
	bucketNames      = "identity.names"
)

// Errors of the directory.
var (
	// ErrNoPrincipal says that no principal has the given ID.
	ErrNoPrincipal = errors.New("no such principal")
	// ErrNameTaken says that another user has the name.
	ErrNameTaken = errors.New("the user name is taken")
)

// Account is a principal as the directory lists it. It holds no secret.
type Account struct {
	Principal
	Enabled bool
	Created time.Time
}

// Credentials are shown once, when they are made: the directory keeps only a hash.
type Credentials struct {
	Principal
	Secret string
}

// String keeps the secret out of logs that print the value.
func (c Credentials) String() string { return "credentials of " + c.ObjectID }

// GoString does the same for %#v.
func (c Credentials) GoString() string { return c.String() }

// account is the stored form of a principal.
type account struct {
	ObjectID string    `json:"objectId"`
	AppID    string    `json:"appId,omitempty"` // service principals only
	Kind     Kind      `json:"kind"`
	Name     string    `json:"name"`
	Enabled  bool      `json:"enabled"`
	Created  time.Time `json:"created"`
	Password string    `json:"password,omitempty"` // bcrypt, users only
	Secrets  [][]byte  `json:"secrets,omitempty"`  // hashSecret, service principals only
}

func (a *account) principal(tenant string) Principal {
	return Principal{ObjectID: a.ObjectID, AppID: a.AppID, TenantID: tenant, Kind: a.Kind, Name: a.Name}
}

func (a *account) hasSecret(secret string) bool {
	sum := hashSecret(a.AppID, secret)
	found := 0
	for _, h := range a.Secrets {
		found |= subtle.ConstantTimeCompare(h, sum)
	}
	return found == 1
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

// CreateServicePrincipal adds a program's identity and returns its only secret.
// The name is for people and need not be unique.
func (s *Service) CreateServicePrincipal(ctx context.Context, name string) (Credentials, error) {
	if name == "" || len(name) > 120 {
		return Credentials{}, fmt.Errorf("a service principal's name has 1 to 120 characters, this one has %d", len(name))
	}
	a := &account{ObjectID: uuid.NewString(), AppID: uuid.NewString(), Kind: ServicePrincipal, Name: name, Enabled: true, Created: s.now().UTC()}
	secret := randomToken()
	a.Secrets = [][]byte{hashSecret(a.AppID, secret)}
	if err := s.insert(ctx, a, "app:"+a.AppID); err != nil {
		return Credentials{}, fmt.Errorf("create service principal %s: %w", name, err)
	}
	return Credentials{Principal: a.principal(s.tenant), Secret: secret}, nil
}

// bcrypt reads 72 bytes and no more; refusing longer passwords beats ignoring their end.
const (
	minPassword = 8
	maxPassword = 72
)

var userNameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+@-]{0,112}$`)

// CreateUser adds a person who signs in with name and password. Names compare without
// regard to case. Errors: ErrNameTaken.
func (s *Service) CreateUser(ctx context.Context, name, password string) (Principal, error) {
	if !userNameForm.MatchString(name) {
		return Principal{}, fmt.Errorf("user name %q: use 1 to 113 letters, digits and . _ + @ -, a letter or digit first", name)
	}
	if len(password) < minPassword || len(password) > maxPassword {
		return Principal{}, fmt.Errorf("a password has %d to %d bytes, this one has %d", minPassword, maxPassword, len(password))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), s.hashCost)
	if err != nil {
		return Principal{}, fmt.Errorf("hash the password: %w", err)
	}
	a := &account{ObjectID: uuid.NewString(), Kind: User, Name: name, Enabled: true, Created: s.now().UTC(), Password: string(hash)}
	if err := s.insert(ctx, a, "user:"+strings.ToLower(name)); err != nil {
		return Principal{}, fmt.Errorf("create user %s: %w", name, err)
	}
	return a.principal(s.tenant), nil
}

func (s *Service) insert(ctx context.Context, a *account, name string) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		switch _, err := tx.Value(bucketNames, name); {
		case err == nil:
			return ErrNameTaken
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		if err := tx.PutValue(bucketNames, name, []byte(a.ObjectID)); err != nil {
			return err
		}
		return putJSON(tx, bucketPrincipals, a.ObjectID, a)
	})
}

// Accounts lists all principals, by object ID.
func (s *Service) Accounts(ctx context.Context) ([]Account, error) {
	var out []Account
	err := s.store.View(ctx, func(tx store.ReadTx) error {
		out = nil
		return tx.Values(bucketPrincipals, func(_ string, value []byte) error {
			var a account
			if err := json.Unmarshal(value, &a); err != nil {
				return err
			}
			out = append(out, Account{Principal: a.principal(s.tenant), Enabled: a.Enabled, Created: a.Created})
			return nil
		})
	})
	return out, err
}

// SetEnabled lets a principal sign in or stops it. A disabled principal's tokens are
// refused at once by this process, and within half a minute by others on the same store.
// Errors: ErrNoPrincipal.
func (s *Service) SetEnabled(ctx context.Context, objectID string, enabled bool) error {
	return s.change(ctx, objectID, func(a *account) error {
		a.Enabled = enabled
		return nil
	})
}

// NewSecret gives a service principal a new secret. Its earlier ones stop working,
// except the newest of them with keepLast, so that a secret can be replaced without a
// moment of failing sign-ins. Errors: ErrNoPrincipal.
func (s *Service) NewSecret(ctx context.Context, objectID string, keepLast bool) (Credentials, error) {
	secret := randomToken()
	var p Principal
	err := s.change(ctx, objectID, func(a *account) error {
		if a.Kind != ServicePrincipal {
			return fmt.Errorf("%s is a user: users have passwords, not secrets", a.Name)
		}
		kept := a.Secrets[:0]
		if keepLast && len(a.Secrets) > 0 {
			kept = a.Secrets[len(a.Secrets)-1:]
		}
		a.Secrets = append(kept, hashSecret(a.AppID, secret))
		p = a.principal(s.tenant)
		return nil
	})
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{Principal: p, Secret: secret}, nil
}

func (s *Service) change(ctx context.Context, objectID string, fn func(*account) error) error {
	err := s.store.Update(ctx, func(tx store.Tx) error {
		a, err := accountByID(tx, objectID)
		if err != nil {
			return err
		}
		if err := fn(a); err != nil {
			return err
		}
		return putJSON(tx, bucketPrincipals, a.ObjectID, a)
	})
	s.verified.purge()
	return err
}

// accountByID reads a principal. Errors: ErrNoPrincipal.
func accountByID(tx store.ReadTx, objectID string) (*account, error) {
	a := new(account)
	if err := getJSON(tx, bucketPrincipals, strings.ToLower(objectID), a); errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNoPrincipal, objectID)
	} else if err != nil {
		return nil, err
	}
	return a, nil
}

// lookup finds a principal by one of its unique names ("app:…", "user:…").
// Errors: ErrNoPrincipal.
func (s *Service) lookup(ctx context.Context, name string) (a *account, err error) {
	err = s.store.View(ctx, func(tx store.ReadTx) error {
		id, err := tx.Value(bucketNames, strings.ToLower(name))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNoPrincipal
		} else if err != nil {
			return err
		}
		a, err = accountByID(tx, string(id))
		return err
	})
	return a, err
}

func getJSON(tx store.ReadTx, bucket, key string, v any) error {
	raw, err := tx.Value(bucket, key)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

func putJSON(tx store.Tx, bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.PutValue(bucket, key, raw)
}

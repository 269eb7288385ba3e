package identity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

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

// InvalidError says in a sentence what is wrong with a value that was given.
type InvalidError struct{ Message string }

func (e *InvalidError) Error() string { return e.Message }

func invalidf(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}

// Account is a principal as the directory lists it. It holds no secret's value.
type Account struct {
	Principal
	DisplayName string // for people; a user's may differ from the name, which he signs in with
	Enabled     bool
	Created     time.Time
	Secrets     []Secret // service principals only; oldest first
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
	ObjectID    string    `json:"objectId"`
	AppID       string    `json:"appId,omitempty"` // service principals only
	Kind        Kind      `json:"kind"`
	Name        string    `json:"name"`
	DisplayName string    `json:"displayName,omitempty"` // users only; empty means Name
	Enabled     bool      `json:"enabled"`
	Created     time.Time `json:"created"`
	Password    string    `json:"password,omitempty"` // bcrypt, users only
	Secrets     []secret  `json:"secrets,omitempty"`  // service principals only
}

func (a *account) principal(tenant string) Principal {
	return Principal{ObjectID: a.ObjectID, AppID: a.AppID, TenantID: tenant, Kind: a.Kind, Name: a.Name}
}

func (a *account) displayName() string { return cmp.Or(a.DisplayName, a.Name) }

func (a *account) public(tenant string) Account {
	out := Account{Principal: a.principal(tenant), DisplayName: a.displayName(), Enabled: a.Enabled, Created: a.Created}
	for _, s := range a.Secrets {
		out.Secrets = append(out.Secrets, s.Secret)
	}
	return out
}

// maxDisplayName is Entra's limit, too. Characters, not bytes.
const maxDisplayName = 256

func checkDisplayName(name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > maxDisplayName {
		return invalidf("a display name has 1 to %d characters, this one has %d", maxDisplayName, n)
	}
	return nil
}

// CreateServicePrincipal adds a program's identity and returns its only secret, which
// never expires. The name is for people and need not be unique.
func (s *Service) CreateServicePrincipal(ctx context.Context, name string) (Credentials, error) {
	a := s.newApplication(name)
	value := a.addSecret(Secret{Start: a.Created})
	if err := s.insertApplication(ctx, a); err != nil {
		return Credentials{}, err
	}
	return Credentials{Principal: a.principal(s.tenant), Secret: value}, nil
}

// CreateApplication adds a program's identity that cannot sign in until it is given a
// secret. The name is for people and need not be unique.
func (s *Service) CreateApplication(ctx context.Context, name string) (Account, error) {
	a := s.newApplication(name)
	return a.public(s.tenant), s.insertApplication(ctx, a)
}

func (s *Service) newApplication(name string) *account {
	return &account{ObjectID: uuid.NewString(), AppID: uuid.NewString(), Kind: ServicePrincipal, Name: name, Enabled: true, Created: s.now().UTC()}
}

func (s *Service) insertApplication(ctx context.Context, a *account) error {
	err := checkDisplayName(a.Name)
	if err == nil {
		err = s.insert(ctx, a)
	}
	if err != nil {
		return fmt.Errorf("create service principal %s: %w", a.Name, err)
	}
	return nil
}

// bcrypt reads 72 bytes and no more; refusing longer passwords beats ignoring their end.
const (
	minPassword = 8
	maxPassword = 72
)

var userNameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+@-]{0,112}$`)

// CreateUser adds a person who signs in with name and password. Names compare without
// regard to case. Errors: ErrNameTaken, *InvalidError.
func (s *Service) CreateUser(ctx context.Context, name, password string) (Principal, error) {
	a, err := s.AddUser(ctx, NewUser{Name: name, Password: password})
	return a.Principal, err
}

// NewUser is what AddUser needs to know of a person.
type NewUser struct {
	Name        string // to sign in with
	DisplayName string // "" means Name
	Password    string
	Disabled    bool // may not sign in yet
}

// AddUser is CreateUser with more to say. Errors: ErrNameTaken, *InvalidError.
func (s *Service) AddUser(ctx context.Context, u NewUser) (Account, error) {
	if !userNameForm.MatchString(u.Name) {
		return Account{}, invalidf("user name %q: use 1 to 113 letters, digits and . _ + @ -, a letter or digit first", u.Name)
	}
	if err := checkDisplayName(cmp.Or(u.DisplayName, u.Name)); err != nil {
		return Account{}, err
	}
	hash, err := s.hashPassword(u.Password)
	if err != nil {
		return Account{}, err
	}
	a := &account{ObjectID: uuid.NewString(), Kind: User, Name: u.Name, DisplayName: u.DisplayName, Enabled: !u.Disabled, Created: s.now().UTC(), Password: hash}
	if err := s.insert(ctx, a); err != nil {
		return Account{}, fmt.Errorf("create user %s: %w", u.Name, err)
	}
	return a.public(s.tenant), nil
}

func (s *Service) hashPassword(password string) (string, error) {
	if len(password) < minPassword || len(password) > maxPassword {
		return "", invalidf("a password has %d to %d bytes, this one has %d", minPassword, maxPassword, len(password))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), s.hashCost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return string(hash), nil
}

// uniqueName is the account's key in bucketNames.
func (a *account) uniqueName() string {
	if a.Kind == User {
		return "user:" + strings.ToLower(a.Name)
	}
	return "app:" + a.AppID
}

func (s *Service) insert(ctx context.Context, a *account) error {
	name := a.uniqueName()
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
			out = append(out, a.public(s.tenant))
			return nil
		})
	})
	return out, err
}

// Change is what Update sets; nil leaves as it is.
type Change struct {
	DisplayName *string
	Enabled     *bool   // may sign in
	Password    *string // users only; ends what the user is signed in to
}

// Update changes a principal, all of the change or nothing. A disabled principal's tokens
// are refused at once by this process, and within half a minute by others on the same store.
// Errors: ErrNoPrincipal, *InvalidError.
func (s *Service) Update(ctx context.Context, objectID string, c Change) error {
	var hash string
	if c.Password != nil {
		var err error
		if hash, err = s.hashPassword(*c.Password); err != nil {
			return err
		}
	}
	if c.DisplayName != nil {
		if err := checkDisplayName(*c.DisplayName); err != nil {
			return err
		}
	}
	return s.change(ctx, objectID, func(tx store.Tx, a *account) error {
		if c.Enabled != nil {
			a.Enabled = *c.Enabled
		}
		switch {
		case c.DisplayName == nil:
		case a.Kind == User:
			a.DisplayName = *c.DisplayName
		default:
			a.Name = *c.DisplayName
		}
		if c.Password == nil {
			return nil
		}
		if a.Kind != User {
			return invalidf("%s is a service principal: it has secrets, not a password", a.Name)
		}
		a.Password = hash
		return endSignIns(tx, a)
	})
}

// Delete removes a principal with everything it could sign in with. Its tokens are refused
// as those of a disabled one are. Roles that it holds are not this package's; they grant
// nothing to anyone, because object IDs are not used again. Errors: ErrNoPrincipal.
func (s *Service) Delete(ctx context.Context, objectID string) error {
	err := s.store.Update(ctx, func(tx store.Tx) error {
		a, err := accountByID(tx, objectID)
		if err != nil {
			return err
		}
		if err := endSignIns(tx, a); err != nil {
			return err
		}
		if err := tx.PutValue(bucketNames, a.uniqueName(), nil); err != nil {
			return err
		}
		return tx.PutValue(bucketPrincipals, a.ObjectID, nil)
	})
	s.verified.purge()
	return err
}

// endSignIns removes the codes and refresh tokens that stand for the account.
func endSignIns(tx store.Tx, a *account) error {
	for _, bucket := range []string{bucketCodes, bucketRefresh, bucketDevices} {
		if err := removeGrants(tx, bucket, func(g *grant) bool { return g.ObjectID == a.ObjectID }); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) change(ctx context.Context, objectID string, fn func(store.Tx, *account) error) error {
	err := s.store.Update(ctx, func(tx store.Tx) error {
		a, err := accountByID(tx, objectID)
		if err != nil {
			return err
		}
		if err := fn(tx, a); err != nil {
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

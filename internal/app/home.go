package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/identity"
)

// Home is the folder of one installation: everything that it keeps is below it.
type Home string

// Paths below the home folder.
func (h Home) path(parts ...string) string {
	return filepath.Join(append([]string{string(h)}, parts...)...)
}

// Store is the store's file.
func (h Home) Store() string { return h.path("berth.db") }

// Key is the file with the key that seals secrets.
func (h Home) Key() string { return h.path("secret.key") }

// CA is the folder of the certificate authority.
func (h Home) CA() string { return h.path("ca") }

// Bundle is the file with the system's authorities and ours, for clients that take only one.
func (h Home) Bundle() string { return h.path("ca", "bundle.pem") }

// Credentials is the file with the first service principal's secret, mode 0600.
func (h Home) Credentials() string { return h.path("credentials.json") }

// Clusters is the folder of the local clusters.
func (h Home) Clusters() string { return h.path("clusters") }

func (h Home) installation() string { return h.path("installation.json") }

// Installation identifies an installation for as long as its home exists.
type Installation struct {
	ID           string `json:"id"` // short, names things on the machine and in clusters
	Tenant       string `json:"tenantId"`
	Subscription string `json:"subscriptionId"`
	Port         int    `json:"port,omitempty"`     // where it listened last
	Blobs        string `json:"blobs,omitempty"`    // the bucket that was chosen last
	Registry     string `json:"registry,omitempty"` // the registry that was chosen last
}

// LoadInstallation reads the installation's identity, or makes it.
func (h Home) LoadInstallation() (Installation, error) {
	var in Installation
	data, err := os.ReadFile(h.installation())
	if errors.Is(err, fs.ErrNotExist) {
		in = Installation{ID: uuid.NewString()[:8], Tenant: uuid.NewString(), Subscription: uuid.NewString()}
		return in, h.save(in)
	}
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(data, &in); err != nil || in.ID == "" {
		return in, fmt.Errorf("%s is damaged; restore it from a backup, or choose another BERTH_HOME", h.installation())
	}
	return in, nil
}

func (h Home) save(in Installation) error { return writeJSON(h.installation(), in, 0o644) }

// writeJSON replaces a file, whole or not at all.
func writeJSON(path string, v any, mode fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Credentials are what the first service principal signs in with.
type Credentials struct {
	TenantID       string `json:"tenantId"`
	SubscriptionID string `json:"subscriptionId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	ObjectID       string `json:"objectId"`
	// A person signs in with these on the sign-in page.
	UserName     string `json:"userName,omitempty"`
	UserPassword string `json:"userPassword,omitempty"`
	UserObjectID string `json:"userObjectId,omitempty"`
}

// ReadCredentials reads the file that Run wrote.
func (h Home) ReadCredentials() (Credentials, error) {
	var c Credentials
	data, err := os.ReadFile(h.Credentials())
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(data, &c)
}

// ensurePrincipals makes the first service principal and the first user, unless their
// credentials are there and known to the directory.
func (h Home) ensurePrincipals(ctx context.Context, ids *identity.Service, in Installation) (Credentials, error) {
	c, err := h.ReadCredentials()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("reading %s: %w", h.Credentials(), err)
	}
	known := map[string]bool{}
	accounts, err := ids.Accounts(ctx)
	if err != nil {
		return c, err
	}
	for _, a := range accounts {
		known[a.ObjectID] = true
	}
	changed := false
	if !known[c.ObjectID] {
		sp, err := ids.CreateServicePrincipal(ctx, "berth")
		if err != nil {
			return c, err
		}
		c.ObjectID, c.ClientID, c.ClientSecret, changed = sp.ObjectID, sp.AppID, sp.Secret, true
	}
	if !known[c.UserObjectID] {
		c.UserName, c.UserPassword = "admin@berth.onmicrosoft.com", uuid.NewString()
		u, err := ids.CreateUser(ctx, c.UserName, c.UserPassword)
		if errors.Is(err, identity.ErrNameTaken) { // an earlier start was cut off before it wrote the file
			c.UserName = "admin-" + uuid.NewString()[:8] + "@berth.onmicrosoft.com"
			u, err = ids.CreateUser(ctx, c.UserName, c.UserPassword)
		}
		if err != nil {
			return c, err
		}
		c.UserObjectID, changed = u.ObjectID, true
	}
	c.TenantID, c.SubscriptionID = in.Tenant, in.Subscription
	if !changed {
		return c, nil
	}
	return c, writeJSON(h.Credentials(), c, 0o600)
}

// WriteJSON replaces a file that others read, whole or not at all.
func WriteJSON(path string, v any) error { return writeJSON(path, v, 0o644) }

// Files lists everything that an installation keeps in its home folder.
func (h Home) Files() []string {
	var out []string
	for _, name := range []string{"berth.db", "berth.db-wal", "berth.db-shm", "berth.db.lock", "secret.key", "ca", "credentials.json", "installation.json", "berth.json", "berth.log", "azure", "clusters", "blobs", "registry", "builds"} {
		out = append(out, h.path(name))
	}
	return out
}

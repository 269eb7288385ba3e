package identity

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestDirectory(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	if _, err := f.CreateUser(ctx, "ADA@example.com", personPassword); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a user name given twice: %v", err)
	}
	invalid := new(InvalidError)
	for name, password := range map[string]string{"": personPassword, "a b": personPassword, "short": "1234567", "long": strings.Repeat("x", 73)} {
		if _, err := f.CreateUser(ctx, name, password); !errors.As(err, &invalid) {
			t.Errorf("user %q with a password of %d bytes: %v", name, len(password), err)
		}
	}
	for _, name := range []string{"", strings.Repeat("x", 257)} {
		if _, err := f.CreateApplication(ctx, name); !errors.As(err, &invalid) {
			t.Errorf("an application named by %d characters: %v", len(name), err)
		}
	}
	accounts, err := f.Accounts(ctx)
	if err != nil || len(accounts) != 2 || !accounts[0].Enabled || accounts[0].TenantID != testTenant {
		t.Errorf("accounts: %+v, %v", accounts, err)
	}
	for what, err := range map[string]error{
		"update": f.Update(ctx, "nobody", Change{}), "delete": f.Delete(ctx, "nobody"), "remove a secret of": f.RemoveSecret(ctx, "nobody", "x"),
	} {
		if !errors.Is(err, ErrNoPrincipal) {
			t.Errorf("%s nobody: %v", what, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, now := t.Context(), f.clock.Now()
	try := func(secret string) (*httptest.ResponseRecorder, map[string]any) {
		form := f.credentials(armScope)
		form.Set("client_secret", secret)
		return f.token(form)
	}
	works := func(secret string) bool { w, _ := try(secret); return w.Code == http.StatusOK }

	second, value, err := f.AddSecret(ctx, f.program.ObjectID, Secret{DisplayName: "rbac", End: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	later, laterValue, err := f.AddSecret(ctx, f.program.ObjectID, Secret{Start: now.Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if !works(f.program.Secret) || !works(value.Secret) {
		t.Error("two secrets do not work at once")
	}
	if works(laterValue.Secret) {
		t.Error("a secret works before it starts")
	}
	if want := now.AddDate(2, 0, 1); !later.End.Equal(want) {
		t.Errorf("a secret without an end ends at %v, want %v", later.End, want)
	}
	account := f.account(f.program.ObjectID)
	if len(account.Secrets) != 3 || account.Secrets[1] != second || second.Hint != value.Secret[:3] || second.DisplayName != "rbac" || !account.Secrets[0].End.IsZero() {
		t.Errorf("secrets as listed: %+v", account.Secrets)
	}

	f.clock.advance(time.Hour)
	w, body := try(value.Secret)
	wantError(t, w, body, http.StatusUnauthorized, "invalid_client", 7000222)
	f.clock.advance(23 * time.Hour)
	if !works(laterValue.Secret) || !works(f.program.Secret) {
		t.Error("a secret does not work after its start, or one without an end stopped working")
	}

	if err := f.RemoveSecret(ctx, f.program.ObjectID, strings.ToUpper(later.KeyID)); err != nil {
		t.Fatal(err)
	}
	w, body = try(laterValue.Secret)
	wantError(t, w, body, http.StatusUnauthorized, "invalid_client", 7000215)
	if !works(f.program.Secret) {
		t.Error("removing one secret removed another")
	}
	if err := f.RemoveSecret(ctx, f.program.ObjectID, later.KeyID); !errors.Is(err, ErrNoSecret) {
		t.Errorf("removed twice: %v", err)
	}

	invalid := new(InvalidError)
	if _, _, err := f.AddSecret(ctx, f.person.ObjectID, Secret{}); !errors.As(err, &invalid) {
		t.Errorf("a user's secret: %v", err)
	}
	if _, _, err := f.AddSecret(ctx, f.program.ObjectID, Secret{Start: now, End: now}); !errors.As(err, &invalid) {
		t.Errorf("a secret that ends as it starts: %v", err)
	}
	for range maxSecrets - 2 { // the first and the expired one are there
		if _, _, err := f.AddSecret(ctx, f.program.ObjectID, Secret{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := f.AddSecret(ctx, f.program.ObjectID, Secret{}); !errors.As(err, &invalid) {
		t.Errorf("a secret too many: %v", err)
	}

	seen := f.log.String() + string(f.store.All()[bucketPrincipals][f.program.ObjectID])
	for _, secret := range []string{f.program.Secret, value.Secret, laterValue.Secret} {
		if strings.Contains(seen, secret) {
			t.Error("a secret's value is in the store or in the log")
		}
	}
}

func TestSecret_IsNoOption(t *testing.T) {
	t.Parallel()
	for range 2000 { // of random texts, 31 would begin with a dash
		if value := new(account).addSecret(Secret{}); value[0] == '-' {
			t.Fatalf("az login takes the secret %s for an option", value)
		}
	}
}

func (f *fixture) account(objectID string) Account {
	f.t.Helper()
	accounts, err := f.Accounts(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, a := range accounts {
		if a.ObjectID == objectID {
			return a
		}
	}
	f.t.Fatalf("no account %s", objectID)
	return Account{}
}

// personSignsIn reports whether the password is the person's.
func (f *fixture) personSignsIn(password string) bool {
	f.t.Helper()
	w, _ := f.token(url.Values{"grant_type": {"password"}, "client_id": {azClient}, "username": {f.person.Name}, "password": {password}, "scope": {armScope}})
	return w.Code == http.StatusOK
}

// refreshed redeems a refresh token.
func (f *fixture) refreshed(token any) int {
	f.t.Helper()
	w, _ := f.token(url.Values{"grant_type": {"refresh_token"}, "client_id": {azClient}, "refresh_token": {token.(string)}, "scope": {armScope}})
	return w.Code
}

func TestDelete_EndsEverything(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	signedIn := f.passwordGrant(nil)
	tokens := map[string]string{f.program.ObjectID: f.programToken(armScope), f.person.ObjectID: signedIn["access_token"].(string)}
	authenticates := func(token string) bool {
		r, err := http.NewRequestWithContext(ctx, "GET", "https://management.azure.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		_, err = f.Authenticate(ctx, r)
		return err == nil
	}
	for id, token := range tokens {
		if !authenticates(token) { // from now on the token is in the cache
			t.Fatalf("the token of %s is refused", id)
		}
		if err := f.Delete(ctx, id); err != nil {
			t.Fatal(err)
		}
		if authenticates(token) {
			t.Errorf("the token of %s works after its end", id)
		}
	}
	w, body := f.token(f.credentials(armScope))
	wantError(t, w, body, http.StatusBadRequest, "unauthorized_client", 700016)
	if f.personSignsIn(personPassword) {
		t.Error("the deleted user signs in")
	}
	if f.refreshed(signedIn["refresh_token"]) == http.StatusOK {
		t.Error("the deleted user's refresh token works")
	}
	for bucket, values := range f.store.All() {
		if bucket != bucketKeys && len(values) > 0 {
			t.Errorf("%s still has %v", bucket, values)
		}
	}
	again, err := f.CreateUser(ctx, f.person.Name, personPassword)
	if err != nil || again.ObjectID == f.person.ObjectID {
		t.Errorf("the name's next holder is %v, %v", again, err)
	}
	if f.refreshed(signedIn["refresh_token"]) == http.StatusOK || authenticates(tokens[f.person.ObjectID]) {
		t.Error("what the last holder of the name had works again")
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	before := f.passwordGrant(nil)
	if err := f.Update(ctx, f.person.ObjectID, Change{DisplayName: new("Ada L."), Password: new("another password")}); err != nil {
		t.Fatal(err)
	}
	if a := f.account(f.person.ObjectID); a.DisplayName != "Ada L." || a.Name != "ada@example.com" || !a.Enabled {
		t.Errorf("updated: %+v", a)
	}
	if f.personSignsIn(personPassword) {
		t.Error("the old password works")
	}
	after := f.passwordGrant(func(form url.Values) { form.Set("password", "another password") })
	for _, token := range []any{after["access_token"], after["id_token"]} {
		if name := claimsOf(t, token)["name"]; name != "Ada L." {
			t.Errorf("a token calls her %v", name)
		}
	}
	if f.refreshed(before["refresh_token"]) == http.StatusOK {
		t.Error("a refresh token from before the change of password works")
	}
	invalid := new(InvalidError)
	for _, c := range []Change{{Password: new("short")}, {DisplayName: new("")}} {
		if err := f.Update(ctx, f.person.ObjectID, c); !errors.As(err, &invalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := f.Update(ctx, f.program.ObjectID, Change{Enabled: new(false), Password: new("a good password")}); !errors.As(err, &invalid) {
		t.Errorf("a program's password: %v", err)
	}
	if a := f.account(f.program.ObjectID); !a.Enabled {
		t.Error("a refused change was made by half")
	}
	if err := f.Update(ctx, f.program.ObjectID, Change{DisplayName: new("ci2")}); err != nil || f.account(f.program.ObjectID).Name != "ci2" {
		t.Errorf("renaming a program: %v", err)
	}
}

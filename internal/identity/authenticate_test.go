package identity

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
)

func bearer(token string) *http.Request {
	r := httptest.NewRequest("GET", "https://management.azure.com/subscriptions", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func (f *fixture) authenticate(token string) (Principal, error) {
	return f.Authenticate(context.Background(), bearer(token))
}

func post(f *fixture, path, kind, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "https://login.microsoftonline.com"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

// wantUnauthorized fails unless err is ARM's 401 with the code.
func wantUnauthorized(t *testing.T, err error, code string) {
	t.Helper()
	var e *armerr.Error
	if !errors.As(err, &e) || e.Code != code || e.HTTPStatus() != http.StatusUnauthorized {
		t.Fatalf("got %v, want a 401 with code %s", err, code)
	}
	challenge := e.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(challenge, `Bearer authorization_uri="https://login.microsoftonline.com/`+testTenant+`", error="`) {
		t.Errorf("WWW-Authenticate is %q", challenge)
	}
}

func TestAuthenticate_EveryAudienceOfARM(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := f.program.Principal
	for _, resource := range []string{
		"https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net", "https://management.core.windows.net/",
		"https://management.core.windows.net//", testBase, testBase + "/", "https://127.0.0.1:8443/", "HTTPS://Management.Azure.com/",
	} {
		for range 2 { // verified, then from the cache
			got, err := f.authenticate(f.programToken(resource + "/.default"))
			if err != nil || got != want {
				t.Errorf("token for %s: %+v, %v; want %+v", resource, got, err, want)
			}
		}
	}
}

func TestAuthenticate_OtherAudiencesAreForOtherServices(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for resource, audience := range map[string]Audience{
		"https://ml.azure.com": MachineLearning, "https://graph.microsoft.com": Graph, "https://graph.microsoft.com/": Graph, testBase + "/graph": Graph,
	} {
		token := f.programToken(resource + "/.default")
		_, err := f.authenticate(token)
		wantUnauthorized(t, err, CodeInvalidTokenAudience)
		if _, err := f.AuthenticateFor(t.Context(), bearer(token), ARM, audience); err != nil {
			t.Errorf("%s at its own service: %v", resource, err)
		}
	}
}

func TestAuthenticate_Refusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.programToken(armScope)
	parts := strings.Split(token, ".")

	stranger := newFixture(t) // the same tenant, another installation's key
	stranger.clock.advance(time.Second)
	if err := stranger.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	foreign := stranger.programToken(armScope)

	for name, c := range map[string]struct{ token, code string }{
		"none":           {"", CodeAuthenticationFailed},
		"rubbish":        {"rubbish", CodeInvalidToken},
		"huge":           {strings.Repeat("a", maxToken+1), CodeInvalidToken},
		"not signed":     {"eyJhbGciOiJub25lIn0." + parts[1] + ".", CodeInvalidToken},
		"other claims":   {parts[0] + "." + strings.Split(foreign, ".")[1] + "." + parts[2], CodeInvalidToken},
		"other key":      {foreign, CodeInvalidToken},
		"quote in token": {`a"b`, CodeInvalidToken},
	} {
		_, err := f.authenticate(c.token)
		t.Run(name, func(t *testing.T) { wantUnauthorized(t, err, c.code) })
	}
	r := bearer("")
	r.Header.Set("Authorization", "Basic "+token)
	_, err := f.Authenticate(t.Context(), r)
	wantUnauthorized(t, err, CodeAuthenticationFailed)

	sign := func(change func(*accessClaims)) string {
		now := f.clock.Now().Unix()
		c := accessClaims{Audience: "https://management.azure.com", Issuer: f.issuer(), NotBefore: now, Expires: now + 60, Tenant: testTenant, ObjectID: f.program.ObjectID}
		change(&c)
		token, err := f.sign(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for code, change := range map[string]func(*accessClaims){
		CodeInvalidTokenTenant:   func(c *accessClaims) { c.Tenant = "6f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11" },
		CodeInvalidTokenAudience: func(c *accessClaims) { c.Audience = "https://vault.azure.net" },
		CodeExpiredToken:         func(c *accessClaims) { c.Expires = f.clock.Now().Add(-clockSkew).Unix() },
		CodeInvalidToken:         func(c *accessClaims) { c.NotBefore = f.clock.Now().Add(clockSkew + time.Second).Unix() },
	} {
		_, err := f.authenticate(sign(change))
		wantUnauthorized(t, err, code)
	}
	for _, change := range []func(*accessClaims){
		func(c *accessClaims) { c.ObjectID = testTenant },
		func(c *accessClaims) { c.Issuer = "https://sts.windows.net/" + f.program.ObjectID + "/" },
	} {
		_, err = f.authenticate(sign(change))
		wantUnauthorized(t, err, CodeInvalidToken)
	}
}

func TestAuthenticate_TokensExpireAlsoInTheCache(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.programToken(armScope)
	for f.clock.Now().Before(time.Date(2026, 7, 1, 13, 1, 0, 0, time.UTC)) {
		if _, err := f.authenticate(token); err != nil {
			t.Fatalf("at %s: %v", f.clock.Now(), err)
		}
		f.clock.advance(7 * time.Second) // so that the end falls between two looks at the principal
	}
	_, err := f.authenticate(token)
	wantUnauthorized(t, err, CodeExpiredToken)
}

func TestAuthenticate_DisablingWorksAtOnceAndOnOtherReplicasSoon(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	replica := f.reopen(t)
	token := f.programToken(armScope)
	for _, s := range []*Service{f.Service, replica} {
		if _, err := s.Authenticate(t.Context(), bearer(token)); err != nil {
			t.Fatal(err)
		}
	}
	f.disable(f.program.ObjectID)
	_, err := f.authenticate(token)
	wantUnauthorized(t, err, CodeInvalidToken)
	f.clock.advance(recheckInterval)
	_, err = replica.Authenticate(t.Context(), bearer(token))
	wantUnauthorized(t, err, CodeInvalidToken)
}

func TestRotateKey_OldTokensStayGoodUntilTheyExpire(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	replica := f.reopen(t)
	old := f.programToken(armScope)
	f.clock.advance(reloadInterval)
	if err := f.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := f.programToken(armScope)
	for name, s := range map[string]*Service{"this process": f.Service, "a replica": replica, "after a restart": f.reopen(t)} {
		for _, token := range []string{old, fresh} {
			if _, err := s.Authenticate(t.Context(), bearer(token)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if n := len(f.keys.public().Keys); n != 2 {
		t.Errorf("%d keys are published, want both", n)
	}
	f.clock.advance(2*tokenLifetime + time.Second)
	if err := f.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(f.keys.public().Keys); n != 2 {
		t.Errorf("%d keys are published, want the last two", n)
	}
}

func BenchmarkAuthenticate_Cached(b *testing.B) {
	f := newFixture(b)
	token, err := f.accessToken(b.Context(), &account{ObjectID: f.program.ObjectID, AppID: f.program.AppID, Kind: ServicePrincipal}, f.program.AppID, "https://management.azure.com/")
	if err != nil {
		b.Fatal(err)
	}
	r := bearer(token)
	for b.Loop() {
		if _, err := f.Authenticate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

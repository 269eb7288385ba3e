package frontend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berthdev/berth/internal/route"
)

// issuer signs tokens as a control plane does.
type issuer struct {
	key *ecdsa.PrivateKey
	id  string
}

func newIssuer(t *testing.T, id string) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{key, id}
}

func (i issuer) keys() *jose.JSONWebKeySet {
	return &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.id, Algorithm: string(jose.ES256), Use: "sig"}}}
}

func (i issuer) auth() route.Auth {
	return route.Auth{Mode: route.AuthToken, TokenKeys: i.keys(), Issuer: "https://berth", Audience: "iris-1"}
}

func (i issuer) token(t *testing.T, claims jwt.Claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claims are those of a token that is good for a while from now.
func claims(now time.Time, good time.Duration) jwt.Claims {
	return jwt.Claims{Issuer: "https://berth", Audience: jwt.Audience{"iris-1"}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(good))}
}

// call asks with an Authorization header and returns "" when the model answered, else the router's reason and text.
func call(t *testing.T, n *network, header string) string {
	t.Helper()
	r := request(t, "POST", "/api/v1/service/iris/score", strings.NewReader("x"))
	if r.Header.Del("Authorization"); header != "" {
		r.Header.Set("Authorization", header)
	}
	a := send(n.client(t), r)
	if a.by == "model" {
		return ""
	}
	if a.status != 401 || a.header.Get("WWW-Authenticate") != "Bearer" || len(a.requestIDs) != 1 {
		t.Errorf("refused with %d, WWW-Authenticate %q", a.status, a.header.Get("WWW-Authenticate"))
	}
	return a.reason + ": " + a.body
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, header, want string }{
		{"primary", "Bearer " + primary, ""},
		{"secondary", "Bearer " + secondary, ""},
		{"scheme in lower case", "bearer " + primary, ""},
		{"none", "", "no Auth Header"},
		{"wrong", "Bearer wrong", "invalid key"},
		{"part of the key", "Bearer " + primary[:5], "invalid key"},
		{"both keys", "Bearer " + primary + secondary, "invalid key"},
		{"the sum instead of the key", "Bearer " + route.KeySum(primary), "invalid key"},
		{"empty", "Bearer ", "not of the form"},
		{"scheme only", "Bearer", "not of the form"},
		{"no scheme", primary, "not of the form"},
		{"other scheme", "Basic " + primary, "not of the form"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris"))
				n.listen(t, "pod:5001", text("ok"))
				f.SetPods("iris", up("pod:5001"))
				got := call(t, n, tt.header)
				if tt.want == "" && got != "" || tt.want != "" && (!strings.HasPrefix(got, "Unauthorized: ") || !strings.Contains(got, tt.want)) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if strings.Contains(got, primary) {
					t.Error("the error tells the key")
				}
				// Every path of a service asks for it.
				for _, path := range []string{"", "/", "/swagger.json", "/version/x/score"} {
					r := request(t, "GET", "/api/v1/service/iris"+path, nil)
					r.Header.Set("Authorization", "Bearer wrong")
					send(n.client(t), r).want(t, 401, "router", "Unauthorized")
				}
			})
		})
	}
}

func TestNoAuth(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Auth = route.Auth{Mode: route.AuthNone} }))
		n.listen(t, "pod:5001", text("ok"))
		f.SetPods("iris", up("pod:5001"))
		for _, header := range []string{"", "Bearer anything", "nonsense"} {
			if got := call(t, n, header); got != "" {
				t.Errorf("%q: %s", header, got)
			}
		}
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	ours, foreign := newIssuer(t, "k1"), newIssuer(t, "k1")
	with := func(change func(*jwt.Claims)) func(time.Time) string {
		return func(now time.Time) string {
			c := claims(now, time.Hour)
			change(&c)
			return ours.token(t, c)
		}
	}
	hmac := func(now time.Time) string { // signed with what everyone may know
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jwt.Signed(signer).Claims(claims(now, time.Hour)).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, tt := range []struct {
		name  string
		token func(now time.Time) string
		want  string
	}{
		{"valid", with(func(*jwt.Claims) {}), ""},
		{"expired", with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Unix(0, 0)) }), "has expired"},
		{"without an end", with(func(c *jwt.Claims) { c.Expiry = nil }), "has expired"},
		{"not yet", with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(c.Expiry.Time()) }), "has expired or is for another"},
		{"for another service", with(func(c *jwt.Claims) { c.Audience = jwt.Audience{"iris-2"} }), "for another service"},
		{"for none", with(func(c *jwt.Claims) { c.Audience = nil }), "for another service"},
		{"of another issuer", with(func(c *jwt.Claims) { c.Issuer = "https://elsewhere" }), "for another service"},
		{"signed by a stranger", func(now time.Time) string { return foreign.token(t, claims(now, time.Hour)) }, "was not signed for this service"},
		{"other algorithm", hmac, "malformed"},
		{"tampered", func(now time.Time) string {
			parts := strings.Split(ours.token(t, claims(now, time.Hour)), ".")
			other := strings.Split(ours.token(t, claims(now, 2*time.Hour)), ".")
			return parts[0] + "." + other[1] + "." + parts[2]
		}, "was not signed for this service"},
		{"no token", func(time.Time) string { return "a.b.c" }, "malformed"},
		{"a key", func(time.Time) string { return primary }, "malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
				f.SetRoute(service(t, "iris", func(r *route.Route) { r.Auth = ours.auth() }))
				n.listen(t, "pod:5001", text("ok"))
				f.SetPods("iris", up("pod:5001"))
				token := tt.token(time.Now())
				for range 2 { // the second one may be remembered
					got := call(t, n, "Bearer "+token)
					if tt.want == "" && got != "" || tt.want != "" && !strings.Contains(got, tt.want) {
						t.Errorf("got %q, want %q", got, tt.want)
					}
				}
			})
		})
	}
}

func TestTokensAreRefreshed(t *testing.T) {
	t.Parallel()
	ours, next := newIssuer(t, "k1"), newIssuer(t, "k2")
	bubble(t, func(t *testing.T, n *network, f *FrontEnd) {
		f.SetRoute(service(t, "iris", func(r *route.Route) { r.Auth = ours.auth() }))
		n.listen(t, "pod:5001", text("ok"))
		f.SetPods("iris", up("pod:5001"))
		old := ours.token(t, claims(time.Now(), time.Hour))
		want := func(token string, good bool) {
			t.Helper()
			if got := call(t, n, "Bearer "+token); (got == "") != good {
				t.Errorf("good is %v, want %v: %s", got == "", good, got)
			}
		}
		want(old, true)
		time.Sleep(55 * time.Minute)
		fresh := ours.token(t, claims(time.Now(), time.Hour))
		want(old, true)
		want(fresh, true)
		time.Sleep(7 * time.Minute) // beyond the leeway for clocks, too
		want(old, false)            // although it was remembered
		want(fresh, true)
		f.SetRoute(service(t, "iris", func(r *route.Route) { // the keys are changed
			r.Auth = ours.auth()
			r.Auth.TokenKeys = next.keys()
		}))
		want(fresh, false)
		want(next.token(t, claims(time.Now(), time.Hour)), true)
	})
}

func TestRememberedTokensAreBounded(t *testing.T) {
	t.Parallel()
	ours := newIssuer(t, "k1")
	auth := ours.auth()
	now := time.Now()
	remembered := &tokens{verified: map[string]time.Time{}}
	for i := range maxTokens {
		remembered.verified[fmt.Sprint(i)] = now.Add(time.Hour)
	}
	if why := remembered.check(&auth, ours.token(t, claims(now, time.Hour)), now); why != "" {
		t.Fatal(why)
	}
	if got := len(remembered.verified); got > maxTokens {
		t.Errorf("%d tokens are remembered, at most %d should be", got, maxTokens)
	}
}

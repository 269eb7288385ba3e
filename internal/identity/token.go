package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// tokenLifetime is how long access and ID tokens are valid. Entra's live for 60 to 90 minutes.
const tokenLifetime = time.Hour

// accessClaims are the claims of an access token. ARM takes version 1.0 tokens, so
// that is what its clients know; azp is version 2.0's name for appid.
type accessClaims struct {
	Audience   string   `json:"aud"`
	Issuer     string   `json:"iss"`
	IssuedAt   int64    `json:"iat"`
	NotBefore  int64    `json:"nbf"`
	Expires    int64    `json:"exp"`
	AppID      string   `json:"appid"`
	AppIDACR   string   `json:"appidacr"` // how the client proved itself: 0 not at all, 1 by a secret
	Party      string   `json:"azp"`
	IDP        string   `json:"idp"`
	IDType     string   `json:"idtyp"`
	ObjectID   string   `json:"oid"`
	Subject    string   `json:"sub"`
	Tenant     string   `json:"tid"`
	UniqueID   string   `json:"uti"`
	Version    string   `json:"ver"`
	Scope      string   `json:"scp,omitempty"`
	ACR        string   `json:"acr,omitempty"`
	AMR        []string `json:"amr,omitempty"`
	Name       string   `json:"name,omitempty"`
	UPN        string   `json:"upn,omitempty"`
	UniqueName string   `json:"unique_name,omitempty"`
}

// idClaims are the claims of an ID token.
type idClaims struct {
	Audience  string `json:"aud"`
	Issuer    string `json:"iss"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	Nonce     string `json:"nonce,omitempty"`
	Name      string `json:"name"`
	ObjectID  string `json:"oid"`
	Username  string `json:"preferred_username"`
	Subject   string `json:"sub"`
	Tenant    string `json:"tid"`
	UniqueID  string `json:"uti"`
	Version   string `json:"ver"`
}

// issuer is the iss of access tokens. It does not depend on the host, so a token that was
// fetched through interception is good at the installation's own address, too.
func (s *Service) issuer() string { return "https://sts.windows.net/" + s.tenant + "/" }

// accessToken signs a token that lets a use audience. clientID is the application that
// asked for it.
func (s *Service) accessToken(ctx context.Context, a *account, clientID, audience string) (string, error) {
	now := s.now()
	c := accessClaims{
		Audience: audience, Issuer: s.issuer(), IDP: s.issuer(),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Add(tokenLifetime).Unix(),
		AppID: clientID, Party: clientID, ObjectID: a.ObjectID, Subject: a.ObjectID,
		Tenant: s.tenant, UniqueID: uuid.NewString(), Version: "1.0",
		AppIDACR: "1", IDType: "app",
	}
	if a.Kind == User {
		known, _ := s.resource(audience)
		c.AppIDACR, c.IDType, c.ACR, c.AMR = "0", "user", "1", []string{"pwd"}
		c.Scope, c.Name, c.UPN, c.UniqueName = known.delegated, a.displayName(), a.Name, a.Name
	}
	return s.sign(ctx, c)
}

// idToken signs who the user is, for the client. base is the origin that the client
// reached the service at; its discovery document names the same issuer.
func (s *Service) idToken(ctx context.Context, a *account, clientID, base, nonce string) (string, error) {
	now := s.now()
	return s.sign(ctx, idClaims{
		Audience: clientID, Issuer: base + "/" + s.tenant + "/v2.0", Nonce: nonce,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Add(tokenLifetime).Unix(),
		Name: a.displayName(), Username: a.Name, ObjectID: a.ObjectID, Subject: a.ObjectID,
		Tenant: s.tenant, UniqueID: uuid.NewString(), Version: "2.0",
	})
}

func (s *Service) sign(ctx context.Context, claims any) (string, error) {
	key, err := s.keys.signer(ctx)
	if err != nil {
		return "", fmt.Errorf("read the signing keys: %w", err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("x5t", key.id))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// clientInfo tells MSAL which account a token belongs to.
func (s *Service) clientInfo(a *account) string {
	raw, _ := json.Marshal(map[string]string{"uid": a.ObjectID, "utid": s.tenant}) // strings marshal
	return base64.RawURLEncoding.EncodeToString(raw)
}

package identity

import "context"

// Kind tells people from programs.
type Kind string

// The kinds of principal, spelled as ARM spells principalType.
const (
	User             Kind = "User"
	ServicePrincipal Kind = "ServicePrincipal"
)

// Principal is who a request was made by, as proven by its token. Role assignments
// refer to ObjectID.
type Principal struct {
	ObjectID string // GUID
	AppID    string // GUID of the application: its own for a service principal, the client's for a user
	TenantID string // GUID
	Kind     Kind
	Name     string // display name of a service principal, sign-in name of a user
}

type principalKey struct{}

// WithPrincipal returns a context that carries p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal that WithPrincipal put there; ok is false for an
// unauthenticated request.
func FromContext(ctx context.Context) (p Principal, ok bool) {
	p, ok = ctx.Value(principalKey{}).(Principal)
	return p, ok
}

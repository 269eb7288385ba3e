package graph

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/identity"
)

// kind is a collection of the directory and the type of what is in it.
type kind struct {
	plural string
	odata  string
}

var (
	users             = kind{"users", "#microsoft.graph.user"}
	applications      = kind{"applications", "#microsoft.graph.application"}
	servicePrincipals = kind{"servicePrincipals", "#microsoft.graph.servicePrincipal"}
	// principals are those that can sign in and hold roles: users and service principals.
	principals = kind{plural: "directoryObjects"}
)

// object is a user, an application or a service principal. A list that a type has is
// there even when it is empty: az reads them without looking whether they are. Times are
// in whole seconds, as Graph's: some clients read no more than seven further digits.
type object struct {
	Type                  string     `json:"@odata.type"`
	ID                    string     `json:"id"`
	DisplayName           string     `json:"displayName"`
	AccountEnabled        *bool      `json:"accountEnabled,omitempty"`
	Created               time.Time  `json:"createdDateTime"`
	AppID                 string     `json:"appId,omitempty"`
	AppDisplayName        string     `json:"appDisplayName,omitempty"`
	AppOwner              string     `json:"appOwnerOrganizationId,omitempty"`
	ServicePrincipalNames []string   `json:"servicePrincipalNames,omitzero"`
	ServicePrincipalType  string     `json:"servicePrincipalType,omitempty"`
	SignInAudience        string     `json:"signInAudience,omitempty"`
	IdentifierURIs        []string   `json:"identifierUris,omitzero"`
	RequiredAccess        []struct{} `json:"requiredResourceAccess,omitzero"`
	AppRoles              []struct{} `json:"appRoles,omitzero"`
	KeyCredentials        []struct{} `json:"keyCredentials,omitzero"`
	PasswordCredentials   []password `json:"passwordCredentials,omitzero"`
	UserPrincipalName     string     `json:"userPrincipalName,omitempty"`

	principal string // object ID of the account that this is a view of
}

// password is a passwordCredential.
type password struct {
	KeyID       string     `json:"keyId"`
	DisplayName *string    `json:"displayName"`
	Hint        string     `json:"hint"`
	Start       time.Time  `json:"startDateTime"`
	End         *time.Time `json:"endDateTime"` // null: never
	Text        *string    `json:"secretText"`  // null but in the answer to addPassword
}

func passwordOf(s identity.Secret) password {
	p := password{KeyID: s.KeyID, Hint: s.Hint, Start: s.Start.Truncate(time.Second)}
	if s.DisplayName != "" {
		p.DisplayName = &s.DisplayName
	}
	if !s.End.IsZero() {
		p.End = &s.End
	}
	return p
}

// homeTenant is Graph's word for applications that are for their own tenant only.
const homeTenant = "AzureADMyOrg"

// viewsOf lists what an account is seen as, the principal first.
func viewsOf(a identity.Account) []*object {
	base := object{ID: a.ObjectID, DisplayName: a.DisplayName, Created: a.Created.Truncate(time.Second), principal: a.ObjectID}
	if a.Kind == identity.User {
		base.Type, base.AccountEnabled, base.UserPrincipalName = users.odata, &a.Enabled, a.Name
		return []*object{&base}
	}
	base.AppID, base.SignInAudience, base.AppRoles, base.KeyCredentials = a.AppID, homeTenant, []struct{}{}, []struct{}{}
	base.PasswordCredentials = []password{}
	for _, s := range a.Secrets {
		base.PasswordCredentials = append(base.PasswordCredentials, passwordOf(s))
	}
	sp, app := base, base
	sp.Type, sp.AccountEnabled, sp.AppDisplayName, sp.AppOwner = servicePrincipals.odata, &a.Enabled, a.Name, a.TenantID
	sp.ServicePrincipalNames, sp.ServicePrincipalType = []string{a.AppID}, "Application"
	app.Type, app.ID, app.IdentifierURIs, app.RequiredAccess = applications.odata, applicationID(a.ObjectID), []string{}, []struct{}{}
	return []*object{&sp, &app}
}

// applicationID derives the ID of the application from that of its service principal, so
// that it needs no place in the store.
func applicationID(objectID string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("application:"+objectID)).String()
}

// has reports whether objects of the type are in the collection.
func (k kind) has(o *object) bool {
	if k == principals {
		return o.ID == o.principal
	}
	return k.odata == o.Type
}

// appKey begins what byKey makes of an address by appId.
const appKey = "appId="

// named reports whether id addresses the object: its ID, a user's name, or an appId.
func (o *object) named(id string) bool {
	if appID, ok := strings.CutPrefix(id, appKey); ok {
		return strings.EqualFold(o.AppID, appID)
	}
	return strings.EqualFold(o.ID, id) || o.UserPrincipalName != "" && strings.EqualFold(o.UserPrincipalName, id)
}

// objects returns the directory's objects of a kind that match, in the order of their
// principals' IDs.
func (d *directory) objects(r *http.Request, k kind, match func(*object) bool) ([]*object, error) {
	accounts, err := d.Accounts(r.Context())
	found := []*object{}
	for _, a := range accounts {
		for _, o := range viewsOf(a) {
			if k.has(o) && match(o) {
				found = append(found, o)
			}
		}
	}
	return found, err
}

// one finds the object of a kind that id names.
func (d *directory) one(r *http.Request, k kind, id string) (*object, error) {
	found, err := d.objects(r, k, func(o *object) bool { return o.named(id) })
	if err == nil && len(found) == 0 {
		err = notFound(id)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// addressed finds the object that the request's path names.
func (d *directory) addressed(r *http.Request, k kind) (*object, error) {
	return d.one(r, k, r.PathValue("id"))
}

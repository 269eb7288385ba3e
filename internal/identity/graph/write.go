package graph

import (
	"net/http"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/identity"
)

// newApplication is the body of POST and PATCH /applications.
type newApplication struct {
	DisplayName    *string `json:"displayName"`
	SignInAudience string  `json:"signInAudience"`
}

func readApplication(r *http.Request) (*newApplication, error) {
	body := new(newApplication)
	if err := readBody(r, body); err != nil {
		return nil, err
	}
	if a := body.SignInAudience; a != "" && a != homeTenant {
		return nil, badRequest("signInAudience '%s' is not possible: an installation of Berth has one tenant, so that it can only be '%s'.", a, homeTenant)
	}
	return body, nil
}

func (d *directory) createApplication(r *http.Request, _ identity.Principal) (any, error) {
	body, err := readApplication(r)
	if err != nil {
		return nil, err
	}
	if body.DisplayName == nil {
		return nil, missing("displayName")
	}
	a, err := d.CreateApplication(r.Context(), *body.DisplayName)
	if err != nil {
		return nil, err
	}
	return d.one(r, applications, applicationID(a.ObjectID))
}

func (d *directory) changeApplication(r *http.Request, _ identity.Principal) (any, error) {
	o, err := d.addressed(r, applications)
	if err != nil {
		return nil, err
	}
	body, err := readApplication(r)
	if err != nil {
		return nil, err
	}
	return nil, d.Update(r.Context(), o.principal, identity.Change{DisplayName: body.DisplayName})
}

// createServicePrincipal answers with the service principal that every application has from
// the beginning, so that it can be repeated.
func (d *directory) createServicePrincipal(r *http.Request, p identity.Principal) (any, error) {
	var body struct {
		AppID          string `json:"appId"`
		AccountEnabled *bool  `json:"accountEnabled"`
	}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	if body.AppID == "" {
		return nil, missing("appId")
	}
	found, err := d.objects(r, servicePrincipals, func(o *object) bool { return o.named(appKey + body.AppID) })
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		// In other words than Graph's: az takes those for a delay and tries again for minutes.
		return nil, badRequest("There is no application with the appId '%s' in this tenant. Make it first: az ad app create", body.AppID)
	}
	if err := d.enable(r, p, found[0], identity.Change{Enabled: body.AccountEnabled}); err != nil {
		return nil, err
	}
	return d.one(r, servicePrincipals, found[0].ID)
}

func (d *directory) changeServicePrincipal(r *http.Request, p identity.Principal) (any, error) {
	o, err := d.addressed(r, servicePrincipals)
	if err != nil {
		return nil, err
	}
	var body struct {
		DisplayName    *string `json:"displayName"`
		AccountEnabled *bool   `json:"accountEnabled"`
	}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	return nil, d.enable(r, p, o, identity.Change{DisplayName: body.DisplayName, Enabled: body.AccountEnabled})
}

// user is the body of POST and PATCH /users.
type user struct {
	AccountEnabled    *bool   `json:"accountEnabled"`
	DisplayName       *string `json:"displayName"`
	UserPrincipalName string  `json:"userPrincipalName"`
	MailNickname      string  `json:"mailNickname"` // Graph demands one; there is no mail here
	PasswordProfile   struct {
		Password    *string `json:"password"`
		ForceChange bool    `json:"forceChangePasswordNextSignIn"`
	} `json:"passwordProfile"`
}

func readUser(r *http.Request) (*user, error) {
	u := new(user)
	if err := readBody(r, u); err != nil {
		return nil, err
	}
	if u.PasswordProfile.ForceChange {
		return nil, badRequest("passwordProfile/forceChangePasswordNextSignIn is not possible: Berth's sign-in page does not change passwords. Give false.")
	}
	return u, nil
}

func (d *directory) createUser(r *http.Request, _ identity.Principal) (any, error) {
	u, err := readUser(r)
	switch {
	case err != nil:
		return nil, err
	case u.DisplayName == nil || *u.DisplayName == "":
		return nil, missing("displayName")
	case !strings.Contains(u.UserPrincipalName, "@"): // by which az tells users from programs
		return nil, badRequest("userPrincipalName '%s' is not of the form name@domain.", u.UserPrincipalName)
	case u.PasswordProfile.Password == nil:
		return nil, missing("passwordProfile/password")
	}
	made, err := d.AddUser(r.Context(), identity.NewUser{
		Name: u.UserPrincipalName, DisplayName: *u.DisplayName, Password: *u.PasswordProfile.Password,
		Disabled: u.AccountEnabled != nil && !*u.AccountEnabled,
	})
	if err != nil {
		return nil, err
	}
	return viewsOf(made)[0], nil
}

func (d *directory) changeUser(r *http.Request, p identity.Principal) (any, error) {
	o, err := d.addressed(r, users)
	if err != nil {
		return nil, err
	}
	u, err := readUser(r)
	if err != nil {
		return nil, err
	}
	if u.UserPrincipalName != "" && !strings.EqualFold(u.UserPrincipalName, o.UserPrincipalName) {
		return nil, badRequest("A user's userPrincipalName cannot be changed. Create another user.")
	}
	return nil, d.enable(r, p, o, identity.Change{DisplayName: u.DisplayName, Enabled: u.AccountEnabled, Password: u.PasswordProfile.Password})
}

// enable changes a principal that the caller may not be disabling himself by it.
func (d *directory) enable(r *http.Request, p identity.Principal, o *object, c identity.Change) error {
	if c.Enabled != nil && !*c.Enabled {
		if err := notSelf(p, o, "disable"); err != nil {
			return err
		}
	}
	return d.Update(r.Context(), o.principal, c)
}

func (d *directory) remove(k kind) endpoint {
	return func(r *http.Request, p identity.Principal) (any, error) {
		o, err := d.addressed(r, k)
		if err != nil {
			return nil, err
		}
		if err := notSelf(p, o, "delete"); err != nil {
			return nil, err
		}
		return nil, d.Delete(r.Context(), o.principal)
	}
}

// notSelf keeps the caller from locking himself out: he may be the last who can let
// anybody in.
func notSelf(p identity.Principal, o *object, verb string) error {
	if p.ObjectID != o.principal {
		return nil
	}
	return badRequest("You are signed in as '%s' and cannot %s yourself. Sign in as another principal with the role Owner to do it.", o.DisplayName, verb)
}

func (d *directory) addPassword(k kind) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		o, err := d.addressed(r, k)
		if err != nil {
			return nil, err
		}
		var body struct {
			Credential struct {
				DisplayName string    `json:"displayName"`
				Start       time.Time `json:"startDateTime"`
				End         time.Time `json:"endDateTime"`
			} `json:"passwordCredential"`
		}
		if err := readBody(r, &body); err != nil {
			return nil, err
		}
		c := body.Credential
		made, credentials, err := d.AddSecret(r.Context(), o.principal, identity.Secret{DisplayName: c.DisplayName, Start: c.Start, End: c.End})
		if err != nil {
			return nil, err
		}
		answer := passwordOf(made)
		answer.Text = &credentials.Secret
		return answer, nil
	}
}

func (d *directory) removePassword(k kind) endpoint {
	return func(r *http.Request, _ identity.Principal) (any, error) {
		o, err := d.addressed(r, k)
		if err != nil {
			return nil, err
		}
		var body struct {
			KeyID string `json:"keyId"`
		}
		if err := readBody(r, &body); err != nil {
			return nil, err
		}
		if body.KeyID == "" {
			return nil, missing("keyId")
		}
		return nil, d.RemoveSecret(r.Context(), o.principal, body.KeyID)
	}
}

func missing(property string) error {
	return badRequest("A value is required for property '%s'.", property)
}

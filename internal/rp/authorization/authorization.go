// Package authorization is the resource provider Microsoft.Authorization: role
// definitions, role assignments, and the decision whether a principal may do an action
// at a scope. Three built-in roles exist, with Azure's own IDs.
package authorization

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

const (
	namespace       = "Microsoft.Authorization"
	roleAssignments = namespace + "/roleAssignments"
	roleDefinitions = namespace + "/roleDefinitions"
)

var versions = []string{"2015-07-01", "2017-10-01-preview", "2018-01-01-preview", "2018-09-01-preview", "2020-03-01-preview", "2020-04-01-preview", "2020-08-01-preview", "2020-10-01-preview", "2022-04-01", "2022-05-01-preview", "2023-07-01-preview"}

// Role is a built-in role definition.
type Role struct {
	ID          string // GUID, the same as in Azure
	Name        string
	Description string
	Actions     []string // with * as wildcard
	NotActions  []string
}

// The built-in roles.
var (
	Owner = Role{
		ID: "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", Name: "Owner", Description: "Can do everything, including granting roles.",
		Actions: []string{"*"},
	}
	Contributor = Role{
		ID: "b24988ac-6180-42a0-ab88-20f7382dd24c", Name: "Contributor", Description: "Can do everything but grant roles.",
		Actions: []string{"*"}, NotActions: []string{namespace + "/*/delete", namespace + "/*/write", namespace + "/elevateAccess/action"},
	}
	Reader = Role{
		ID: "acdd72a7-3385-48ef-bd42-f606fba81ae7", Name: "Reader", Description: "Can see everything and change nothing.",
		Actions: []string{"*/read"},
	}
	roles = []Role{Owner, Contributor, Reader}
)

func roleByID(id string) (Role, bool) {
	i := slices.IndexFunc(roles, func(r Role) bool { return strings.EqualFold(r.ID, id) })
	if i < 0 {
		return Role{}, false
	}
	return roles[i], true
}

// Allows reports whether the role covers an action; actions have no case.
func (r Role) Allows(action string) bool {
	match := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(strings.ToLower(p), strings.ToLower(action)) })
	}
	return match(r.Actions) && !match(r.NotActions)
}

// matches compares with * standing for any text.
func matches(pattern, s string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	if rest == "" {
		return true
	}
	for i := range len(s) + 1 {
		if matches(rest, s[i:]) {
			return true
		}
	}
	return false
}

// Assignment is the properties of a role assignment.
type Assignment struct {
	ProvisioningState  string `json:"provisioningState,omitempty" arm:"readonly"`
	RoleDefinitionID   string `json:"roleDefinitionId,omitempty" arm:"required,immutable,maxlen=1024"`
	PrincipalID        string `json:"principalId,omitempty" arm:"required,immutable,format=guid"`
	PrincipalType      string `json:"principalType,omitempty" arm:"enum=User|Group|ServicePrincipal|ForeignGroup|Device"`
	Scope              string `json:"scope,omitempty" arm:"readonly"`
	Description        string `json:"description,omitempty"`
	CanDelegate        *bool  `json:"canDelegate,omitempty" arm:"unsupported"`
	Condition          string `json:"condition,omitempty" arm:"unsupported"`
	ConditionVersion   string `json:"conditionVersion,omitempty" arm:"unsupported,default=2.0"`
	DelegatedIdentity  string `json:"delegatedManagedIdentityResourceId,omitempty" arm:"unsupported"`
	CreatedOn          string `json:"createdOn,omitempty" arm:"readonly"`
	UpdatedOn          string `json:"updatedOn,omitempty" arm:"readonly"`
	CreatedBy          string `json:"createdBy,omitempty" arm:"readonly"`
	UpdatedBy          string `json:"updatedBy,omitempty" arm:"readonly"`
	PrincipalName      string `json:"principalName,omitempty" arm:"readonly"`
	RoleDefinitionName string `json:"roleDefinitionName,omitempty" arm:"readonly"`
}

// Service is the provider, and decides about access.
type Service struct {
	Store store.Store
	Now   func() time.Time

	mu     sync.Mutex
	grants []grant // as of loaded
	loaded time.Time
	stale  bool
}

type grant struct {
	principal string
	scope     string // key; "" is the tenant
	role      Role
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// Types are the declarations of the provider's types.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{
		resource.New(resource.Definition[Assignment]{
			Type: roleAssignments, Summary: "The grant of a role to a principal at a scope.", Versions: versions, Scope: resource.Anywhere, CreateStatus: 201, DeletedBody: true, DeleteOrder: 100,
			// Berth knows no groups, so that assigned to a principal is always directly assigned.
			Filters: map[string]string{"principalId": "principalId", "assignedTo()": "principalId"},
			Names:   resource.NameRule{Pattern: guid, Description: "is a GUID", Code: armerr.CodeInvalidResourceName},
			Admit:   s.admit,
			Present: func(p *resource.Presentation[Assignment]) {
				a := &p.Doc.Properties
				a.Scope = p.ID.Scope().String()
				if a.Scope == "" {
					a.Scope = "/"
				}
				a.CreatedOn, a.UpdatedOn = resource.Timestamp(p.Row.Created.At), resource.Timestamp(p.Row.Modified.At)
				a.CreatedBy, a.UpdatedBy = p.Row.Created.By, p.Row.Modified.By
			},
			Removable: func(context.Context, *resource.Removal[Assignment]) error { s.Invalidate(); return nil },
		}),
		resource.NewVirtual(roleDefinitions, "The roles that can be granted.", versions, resource.Anywhere, resource.Virtual{Get: getRole, List: listRoles}),
	}
}

func (s *Service) admit(_ context.Context, d *resource.Draft[Assignment]) error {
	a := &d.New.Properties
	roleID := a.RoleDefinitionID[strings.LastIndexByte(a.RoleDefinitionID, '/')+1:]
	role, ok := roleByID(roleID)
	if !ok {
		names := make([]string, len(roles))
		for i, r := range roles {
			names[i] = r.Name + " (" + r.ID + ")"
		}
		d.Fail("properties.roleDefinitionId", "there is no role %q. The roles are: %s.", roleID, strings.Join(names, ", "))
		return nil
	}
	if a.PrincipalType == "" {
		a.PrincipalType = "ServicePrincipal"
	}
	scope := d.ID.SubscriptionScope()
	a.RoleDefinitionID = scope.String() + "/providers/" + roleDefinitions + "/" + role.ID
	err := d.Tx.Claim("role:"+d.ID.Scope().Key()+":"+role.ID+":"+strings.ToLower(a.PrincipalID), d.ID.Key())
	var taken *store.ClaimedError
	if errors.As(err, &taken) {
		return &armerr.Error{Status: 409, Code: "RoleAssignmentExists", Message: "The role assignment already exists: " + taken.Owner}
	}
	s.Invalidate()
	return err
}

// Invalidate makes the next decision read the assignments again.
func (s *Service) Invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = true
}

// fresh is how long assignments may be remembered; another replica may have changed them.
const fresh = 2 * time.Second

// Allowed reports whether a principal may do an action at a scope: whether any assignment
// of his at the scope or above it has a role that covers it.
func (s *Service) Allowed(ctx context.Context, principalID, action string, scope armid.ID) (bool, error) {
	grants, err := s.current(ctx)
	if err != nil {
		return false, err
	}
	key := scope.Key()
	for _, g := range grants {
		if !strings.EqualFold(g.principal, principalID) || !g.role.Allows(action) {
			continue
		}
		if g.scope == "" || key == g.scope || strings.HasPrefix(key, g.scope+"/") {
			return true, nil
		}
		// Who has a role on anything in a subscription sees the subscription, as in Azure:
		// az cannot use one that it does not list.
		if strings.EqualFold(action, armid.SubscriptionType+"/read") && strings.HasPrefix(g.scope, key+"/") {
			return true, nil
		}
	}
	return false, nil
}

func (s *Service) current(ctx context.Context) ([]grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	if !s.stale && !s.loaded.IsZero() && now.Sub(s.loaded) < fresh && !now.Before(s.loaded) {
		return s.grants, nil
	}
	var grants []grant
	err := s.Store.View(ctx, func(tx store.ReadTx) error {
		grants = nil
		rows, _, err := tx.Resources(store.Query{Type: strings.ToLower(roleAssignments)})
		if err != nil {
			return err
		}
		for _, row := range rows {
			doc, err := resource.ReadSpec[Assignment](row)
			if err != nil {
				return err
			}
			id := doc.Properties.RoleDefinitionID
			if role, ok := roleByID(id[strings.LastIndexByte(id, '/')+1:]); ok {
				grants = append(grants, grant{principal: doc.Properties.PrincipalID, scope: armid.MustParse(row.ID).Scope().Key(), role: role})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.grants, s.loaded, s.stale = grants, now, false
	return grants, nil
}

// EnsureAssignment grants a role, unless it is granted already. It is for the first
// principal, before anyone could grant it anything.
func EnsureAssignment(ctx context.Context, m *resource.Manager, scope armid.ID, role Role, principalID, principalType string) error {
	name := uuid.NewSHA1(uuid.NameSpaceURL, []byte(scope.Key()+role.ID+principalID)).String()
	t, err := m.Registry.Find(roleAssignments)
	if err != nil {
		return err
	}
	doc, err := resource.Encode(&resource.Document[Assignment]{Properties: Assignment{RoleDefinitionID: role.ID, PrincipalID: principalID, PrincipalType: principalType}})
	if err != nil {
		return err
	}
	return m.Store.Update(ctx, func(tx store.Tx) error {
		_, err := m.Put(ctx, tx, resource.Write{
			ID: scope.Extend(namespace, "roleAssignments", name), Type: t, Version: versions[len(versions)-1], Doc: doc,
			By: store.Stamp{At: m.Now(), By: "berth", Kind: "Application"},
		})
		return err
	})
}

func roleBody(scope armid.ID, r Role) map[string]any {
	return map[string]any{
		"id": scope.String() + "/providers/" + roleDefinitions + "/" + r.ID, "type": roleDefinitions, "name": r.ID,
		"properties": map[string]any{
			"roleName": r.Name, "type": "BuiltInRole", "description": r.Description, "assignableScopes": []string{"/"},
			"permissions": []any{map[string]any{"actions": r.Actions, "notActions": append([]string{}, r.NotActions...), "dataActions": []string{}, "notDataActions": []string{}}},
			"createdOn":   nil, "updatedOn": nil, "createdBy": nil, "updatedBy": nil,
		},
	}
}

func getRole(_ context.Context, c *resource.Call) (*resource.Answer, error) {
	r, ok := roleByID(c.ID.Name())
	if !ok {
		return nil, armerr.New(armerr.CodeResourceNotFound, "The specified role definition with ID '%s' does not exist.", c.ID.Name())
	}
	return &resource.Answer{Body: roleBody(c.ID.Scope(), r)}, nil
}

var roleFilter = regexp.MustCompile(`(?i)^\s*(roleName|type)\s+eq\s+'([^']*)'\s*$`)

func listRoles(_ context.Context, c *resource.Call) (*resource.Answer, error) {
	value := []any{}
	m := roleFilter.FindStringSubmatch(c.Query("$filter"))
	for _, r := range roles {
		if m != nil && strings.EqualFold(m[1], "roleName") && !strings.EqualFold(m[2], r.Name) {
			continue
		}
		value = append(value, roleBody(c.ID, r))
	}
	return &resource.Answer{Body: map[string]any{"value": value}}, nil
}

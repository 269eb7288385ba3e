package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"

	"github.com/berthdev/berth/internal/store"
)

// Config is what a Service needs.
type Config struct {
	Store  store.Store
	Tenant string // GUID of the installation's one tenant
	// BaseURLs are the installation's own addresses (https://host:port, without a path). The
	// first is where people are sent to sign in: their browser is not behind the
	// interception proxy, so it could not find Berth under Azure's names.
	BaseURLs []string
	Clock    func() time.Time // nil means time.Now
	Logger   *slog.Logger     // nil means slog.Default()
}

// Service issues and verifies tokens for one tenant. It is safe for concurrent use,
// and several processes may run one over the same store.
type Service struct {
	store     store.Store
	tenant    string
	baseURLs  []string
	resources map[string]resource
	now       func() time.Time
	log       *slog.Logger

	keys     *keyring
	verified *tokenCache
	guesses  *guessLimiter
	hashing  chan struct{} // bounds the bcrypt computations that run at once
	hashCost int           // bcrypt's; tests lower it
	pruned   atomic.Int64  // Unix seconds of the last removal of expired grants
}

// New returns a Service, after making the first signing key if the store has none.
func New(c Config) (*Service, error) {
	if c.Store == nil {
		return nil, errors.New("identity: no store given")
	}
	tenant, err := uuid.Parse(c.Tenant)
	if err != nil {
		return nil, fmt.Errorf("identity: tenant %q is not a GUID", c.Tenant)
	}
	if len(c.BaseURLs) == 0 {
		return nil, errors.New("identity: no base URL given; people need one to sign in at")
	}
	s := &Service{
		store:    c.Store,
		tenant:   tenant.String(),
		now:      c.Clock,
		log:      c.Logger,
		verified: newTokenCache(),
		guesses:  newGuessLimiter(),
		hashing:  make(chan struct{}, 2),
		hashCost: bcrypt.DefaultCost,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	for _, raw := range c.BaseURLs {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("identity: base URL %q is not of the form https://host:port", raw)
		}
		s.baseURLs = append(s.baseURLs, "https://"+u.Host)
	}
	s.resources = knownResources(s.baseURLs)
	s.keys = &keyring{store: s.store, now: s.now}
	if err := s.keys.load(context.Background(), true); err != nil {
		return nil, fmt.Errorf("identity: signing keys: %w", err)
	}
	return s, nil
}

// Tenant is the GUID of the installation's tenant.
func (s *Service) Tenant() string { return s.tenant }

// RotateKey makes a new signing key and signs with it from now on. Tokens that earlier
// keys signed stay valid until they expire; then those keys are removed.
func (s *Service) RotateKey(ctx context.Context) error { return s.keys.rotate(ctx) }

// Handler answers on the login hosts. Its caller has checked that the request's Host is
// one of this installation's, because URLs in the answers are built from it.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /common/discovery/instance", s.instanceDiscovery)
	mux.HandleFunc("GET /common/userrealm/{user}", s.userRealm)
	mux.HandleFunc("GET /{tenant}/discovery/v2.0/keys", s.inTenant(s.publicKeys))
	mux.HandleFunc("GET /{tenant}/discovery/keys", s.inTenant(s.publicKeys))
	mux.HandleFunc("GET /{tenant}/v2.0/.well-known/openid-configuration", s.inTenant(s.openIDConfiguration("/v2.0")))
	mux.HandleFunc("GET /{tenant}/.well-known/openid-configuration", s.inTenant(s.openIDConfiguration("")))
	mux.HandleFunc("POST /{tenant}/oauth2/v2.0/token", s.inTenant(s.token))
	mux.HandleFunc("POST /{tenant}/oauth2/token", s.inTenant(s.token))
	mux.HandleFunc("POST /{tenant}/oauth2/v2.0/devicecode", s.inTenant(s.deviceCode))
	mux.HandleFunc("GET /{tenant}/oauth2/v2.0/logout", s.inTenant(s.signedOut))
	mux.HandleFunc("GET /{tenant}/oauth2/logout", s.inTenant(s.signedOut))

	// The pages that a person sees. CrossOriginProtection refuses form posts that another
	// site's page makes; there is no session cookie that such a post could ride on either.
	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(refuseCrossOrigin))
	page := func(path string, h http.HandlerFunc) {
		mux.Handle("GET "+path, csrf.Handler(h))
		mux.Handle("POST "+path, csrf.Handler(h))
	}
	page("/{tenant}/oauth2/v2.0/authorize", s.inTenant(s.authorize))
	page(devicePath, s.deviceLogin)
	mux.HandleFunc("/", s.noSuchPage)
	return mux
}

// inTenant refuses tenants that are not ours. Besides its GUID the tenant goes by the
// names that clients use when they do not know it yet.
func (s *Service) inTenant(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch t := strings.ToLower(r.PathValue("tenant")); t {
		case s.tenant, "common", "organizations":
			next(w, r)
		default:
			s.refuse(w, r, oauthErrorf(errInvalidRequest, 90002,
				"There is no tenant '%s' here. This installation has one tenant, %s; 'organizations' names it too.", printable(t), s.tenant))
		}
	}
}

func (s *Service) noSuchPage(w http.ResponseWriter, r *http.Request) {
	e := oauthErrorf(errInvalidRequest, 900561, "The sign-in service has no %s %s.", printable(r.Method), printable(r.URL.Path))
	e.status = http.StatusNotFound
	s.refuse(w, r, e)
}

// endpointBase is the origin that the client used, for URLs it fetches itself.
func endpointBase(r *http.Request) string { return "https://" + r.Host }

package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
)

// OAuth 2.0's error names (RFC 6749 section 5.2, RFC 8628 section 3.5), and Entra's own.
const (
	errInvalidRequest       = "invalid_request"
	errInvalidClient        = "invalid_client"
	errInvalidGrant         = "invalid_grant"
	errInvalidScope         = "invalid_scope"
	errInvalidResource      = "invalid_resource"
	errUnauthorizedClient   = "unauthorized_client"
	errUnsupportedGrant     = "unsupported_grant_type"
	errUnsupportedResponse  = "unsupported_response_type"
	errInteractionRequired  = "interaction_required"
	errAuthorizationPending = "authorization_pending"
	errAuthorizationDenied  = "authorization_declined"
	errExpiredToken         = "expired_token"
	errUnavailable          = "temporarily_unavailable"
	errServer               = "server_error"
)

// oauthError is an error of the sign-in service. aadsts is Entra's number for it: clients
// and people look errors up by it.
type oauthError struct {
	name       string
	aadsts     int
	message    string
	status     int // 0 means 400, or 401 for invalid_client
	retryAfter time.Duration
}

func (e *oauthError) Error() string { return fmt.Sprintf("AADSTS%d: %s", e.aadsts, e.message) }

func oauthErrorf(name string, aadsts int, format string, args ...any) *oauthError {
	return &oauthError{name: name, aadsts: aadsts, message: fmt.Sprintf(format, args...)}
}

// asOAuthError turns anything into an oauthError. What is not one is our own fault;
// its text stays in the log.
func (s *Service) asOAuthError(r *http.Request, err error) *oauthError {
	var e *oauthError
	if errors.As(err, &e) {
		return e
	}
	s.log.ErrorContext(r.Context(), "sign-in service failed", "path", r.URL.Path, "error", err)
	e = oauthErrorf(errServer, 90033, "The sign-in service met a fault of its own. Try again.")
	e.status = http.StatusInternalServerError
	return e
}

// errorBody is Entra's shape of an error.
type errorBody struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
}

// refuse writes an error.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := s.asOAuthError(r, err)
	b := errorBody{
		Error: e.name, Codes: []int{e.aadsts}, TraceID: uuid.NewString(),
		Timestamp: s.now().UTC().Format("2006-01-02 15:04:05Z"), CorrelationID: correlationID(r),
	}
	b.Description = fmt.Sprintf("%s Trace ID: %s Correlation ID: %s Timestamp: %s", e.Error(), b.TraceID, b.CorrelationID, b.Timestamp)
	status := e.status
	switch {
	case status != 0:
	case e.name == errInvalidClient:
		status = http.StatusUnauthorized
	default:
		status = http.StatusBadRequest
	}
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.retryAfter/time.Second)+1))
	}
	if e.name != errAuthorizationPending {
		s.log.InfoContext(r.Context(), "sign-in refused", "error", e.name, "aadsts", e.aadsts, "path", r.URL.Path, "trace_id", b.TraceID)
	}
	writeJSON(w, status, b)
}

// correlationID is the client's own when it sent one.
func correlationID(r *http.Request) string {
	if id, err := uuid.Parse(r.Header.Get("client-request-id")); err == nil {
		return id.String()
	}
	return uuid.NewString()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone; nobody is left to tell
}

// printable makes a client's text fit to be quoted in a message or a log line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 100 {
		return string(runes[:100]) + "…"
	}
	return s
}

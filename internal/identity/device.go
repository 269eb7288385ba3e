package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// devicePath is the page on which people enter user codes.
const devicePath = "/devicelogin"

// pollInterval is how often a device asks whether somebody signed in.
const pollInterval = 2 * time.Second

// deviceResponse is RFC 8628's section 3.2, plus Entra's message for people.
type deviceResponse struct {
	DeviceCode      string `json:"device_code"`
	UserCode        string `json:"user_code"`
	VerificationURI string `json:"verification_uri"`
	ExpiresIn       int    `json:"expires_in"`
	Interval        int    `json:"interval"`
	Message         string `json:"message"`
}

// deviceCode starts the sign-in of a client that has no browser.
func (s *Service) deviceCode(w http.ResponseWriter, r *http.Request) {
	answer, err := s.newDevice(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Service) newDevice(w http.ResponseWriter, r *http.Request) (*deviceResponse, error) {
	form, err := readForm(w, r)
	if err != nil {
		return nil, err
	}
	g := &grant{ClientID: strings.ToLower(form.Get("client_id")), Expires: s.now().Add(deviceLifetime)}
	if err := publicClient(g.ClientID); err != nil {
		return nil, err
	}
	if form.Get("scope") == "" {
		return nil, missing("scope")
	}
	if g.Request, err = s.parseScope(form.Get("scope")); err != nil {
		return nil, err
	}
	code, err := s.startDevice(r.Context(), g)
	if err != nil {
		return nil, err
	}
	where := s.baseURLs[0] + devicePath // where the person's browser finds us
	return &deviceResponse{
		DeviceCode: code, UserCode: g.UserCode, VerificationURI: where,
		ExpiresIn: int(deviceLifetime / time.Second), Interval: int(pollInterval / time.Second),
		Message: fmt.Sprintf("To sign in, open the page %s in a web browser and enter the code %s.", where, g.UserCode),
	}, nil
}

// deviceLogin asks for a code, then for the person's name and password.
func (s *Service) deviceLogin(w http.ResponseWriter, r *http.Request) {
	userCode := strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(r.URL.Query().Get("otc")))
	if userCode == "" {
		s.show(w, r, http.StatusOK, "devicecode", page{Title: "Sign in to a device"})
		return
	}
	p, err := s.devicePage(r.Context(), userCode)
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.show(w, r, http.StatusBadRequest, "devicecode", unknownUserCode)
	case err != nil:
		s.showError(w, r, err)
	case r.Method == http.MethodPost:
		s.decideDevice(w, r, p)
	default:
		s.show(w, r, http.StatusOK, "device", p)
	}
}

var unknownUserCode = page{Title: "Sign in to a device", Error: "That code is unknown, expired, or was used before. Check it, or start again on the device."}

func (s *Service) devicePage(ctx context.Context, userCode string) (page, error) {
	p := page{Title: "Sign in to a device", UserCode: userCode}
	err := s.store.View(ctx, func(tx store.ReadTx) error {
		_, g, err := s.deviceByUserCode(tx, userCode)
		if err == nil {
			p.Client = publicClients[g.ClientID]
		}
		return err
	})
	return p, err
}

func (s *Service) decideDevice(w http.ResponseWriter, r *http.Request, p page) {
	form, err := readForm(w, r)
	if err != nil {
		s.showError(w, r, err)
		return
	}
	done := page{Title: "Declined", Text: "The device was not signed in. You can close this page."}
	var objectID string
	if form.Get("decision") != "decline" {
		user, err := s.signInPerson(r.Context(), form.Get("username"), form.Get("password"))
		if err != nil {
			e := s.asOAuthError(r, err)
			p.UserName, p.Error = form.Get("username"), e.message
			s.show(w, r, max(e.status, http.StatusBadRequest), "device", p)
			return
		}
		objectID = user.ObjectID
		done = page{Title: "Signed in", Text: "You are signed in to " + p.Client + " on your device. You can close this page."}
	}
	switch err := s.settleDevice(r.Context(), p.UserCode, objectID); {
	case errors.Is(err, store.ErrNotFound):
		s.show(w, r, http.StatusBadRequest, "devicecode", unknownUserCode)
	case err != nil:
		s.showError(w, r, err)
	default:
		s.show(w, r, http.StatusOK, "message", done)
	}
}

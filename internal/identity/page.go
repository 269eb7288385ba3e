package identity

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
)

//go:embed pages.html
var pageFiles embed.FS

var pageTemplates = template.Must(template.ParseFS(pageFiles, "pages.html"))

// page is what the templates in pages.html show.
type page struct {
	Title    string
	Error    string
	Text     string
	Client   string
	UserName string
	UserCode string
	Action   string            // where a form_post goes
	Fields   map[string]string // what it carries
	Nonce    string            // set by show

	formTo string // origin besides our own that the form may lead to
}

// show writes a page. Pages work without JavaScript, load nothing, and can not be
// framed.
func (s *Service) show(w http.ResponseWriter, r *http.Request, status int, name string, p page) {
	p.Nonce = randomToken()
	var body bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&body, name, p); err != nil {
		s.refuse(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// Browsers hold redirects after a form post to form-action as well.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+p.Nonce+"'; script-src 'nonce-"+p.Nonce+
		"'; form-action 'self' "+p.formTo+"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: it would make browsers send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // the browser is gone; nobody is left to tell
}

func (s *Service) showError(w http.ResponseWriter, r *http.Request, err error) {
	e := s.asOAuthError(r, err)
	s.show(w, r, max(e.status, http.StatusBadRequest), "message", page{Title: "Sign-in failed", Error: e.Error()})
}

func (s *Service) signedOut(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusOK, "message", page{Title: "Signed out", Text: "Berth keeps no browser session; nothing is left to sign out of."})
}

func refuseCrossOrigin(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "This form was sent by a page of another site, so it is refused. Open the sign-in page itself.", http.StatusForbidden)
}

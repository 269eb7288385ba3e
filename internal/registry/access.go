package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Access says who may use a registry. One user may do everything. Readers may fetch images that they know the digests of
// from repositories of theirs: a node needs no more, and lists, tags and changes are none of its business.
type Access struct {
	User, Password string // of who may do everything; without a password nobody may do anything

	// Readable are the repositories that a reader may fetch from; a name that ends with a slash stands for all that begin
	// with it. nil means that there are no readers.
	Readable func(reader string) []string
}

// ReaderPassword is a reader's password. It follows from the user's, so that it need not be kept, and says nothing of that
// or of other readers' ones.
func (a Access) ReaderPassword(reader string) string {
	mac := hmac.New(sha256.New, []byte(a.Password))
	_, _ = mac.Write([]byte("reader of the registry\n" + reader)) // it never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// Guard lets those requests through to a registry's handler that they may make who make them.
func (a Access) Guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if a.admits(w, req) {
			h.ServeHTTP(w, req)
		}
	})
}

// admits reports whether a request may be made. Unless it may, it is answered.
func (a Access) admits(w http.ResponseWriter, req *http.Request) bool {
	name, password, _ := req.BasicAuth()
	switch {
	case a.Password == "":
	case equal(name, a.User):
		if equal(password, a.Password) {
			return true
		}
	case a.Readable != nil && equal(password, a.ReaderPassword(name)):
		readable := a.Readable(name)
		if reads(req, readable) {
			return true
		}
		refuse(w, http.StatusForbidden, "DENIED", fmt.Sprintf("%s may only fetch images, by their digests, and only from %s.", name, listed(readable)))
		return false
	}
	w.Header().Set("Www-Authenticate", `Basic realm="Berth"`)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "The registry needs a user and a password; nodes have theirs in the pull secret of the workspace's namespace.")
	return false
}

// equal compares in a time that tells neither what is in the texts nor how long they are.
func equal(a, b string) bool {
	as, bs := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(as[:], bs[:]) == 1
}

// reads tells whether a request does nothing but find the registry, or fetch a part of an image by its digest from one of
// some repositories. It reads the path as the distribution API's routes do; what has another reading is refused.
func reads(req *http.Request, readable []string) bool {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return false
	}
	at, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok || req.URL.RawPath != "" { // something was encoded that need not be
		return false
	}
	if at == "" {
		return true
	}
	parts := strings.Split(at, "/")
	if len(parts) < 3 {
		return false
	}
	kind, id := parts[len(parts)-2], parts[len(parts)-1]
	if _, err := digest.Parse(id); err != nil || kind != "manifests" && kind != "blobs" {
		return false
	}
	repo := strings.Join(parts[:len(parts)-2], "/")
	if _, err := reference.WithName(repo); err != nil {
		return false
	}
	return slices.ContainsFunc(readable, func(r string) bool {
		return repo == r || strings.HasSuffix(r, "/") && strings.HasPrefix(repo, r)
	})
}

// listed is a list of repositories for people.
func listed(repos []string) string {
	var out []string
	for _, r := range repos {
		if strings.HasSuffix(r, "/") {
			r += "…"
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return "no repository"
	}
	return strings.Join(out, ", ")
}

// refuse answers as registries do.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}}) // the node is gone when this fails
}

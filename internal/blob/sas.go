package blob

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"time"
)

// Domain is where the accounts' hosts are: {account}.blob.core.windows.net.
const Domain = "blob.core.windows.net"

const signedVersion = "2021-08-06"

// URL is a signed URL of a blob: who has it can do what permissions say (r read, w write, c create, d delete)
// for the given time, and nothing else. It is Azure's service SAS, so any client of Azure takes it.
func (s *Store) URL(n Name, permissions string, lifetime time.Duration) string {
	q := url.Values{
		"sv": {signedVersion}, "sr": {"b"}, "sp": {permissions}, "spr": {"https"},
		"se": {s.now().Add(lifetime).UTC().Format(time.RFC3339)},
	}
	q.Set("sig", s.signature(n, q))
	u := url.URL{Scheme: "https", Host: n.Account + "." + Domain, Path: "/" + n.Container + "/" + n.Path, RawQuery: q.Encode()}
	return u.String()
}

// signature is Azure's for a service SAS of the version 2020-12-06 and later.
func (s *Store) signature(n Name, q url.Values) string {
	resource := "/blob/" + n.Account + "/" + n.Container
	if q.Get("sr") == "b" {
		resource += "/" + n.Path
	}
	text := strings.Join([]string{
		q.Get("sp"), q.Get("st"), q.Get("se"), resource, q.Get("si"), q.Get("sip"), q.Get("spr"), q.Get("sv"), q.Get("sr"),
		q.Get("snapshot"), q.Get("ses"), q.Get("rscc"), q.Get("rscd"), q.Get("rsce"), q.Get("rscl"), q.Get("rsct"),
	}, "\n")
	account := hmac.New(sha256.New, s.key)
	account.Write([]byte(n.Account))
	sum := hmac.New(sha256.New, account.Sum(nil))
	sum.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// signed reports whether a request's query is signed for a blob.
func (s *Store) signed(n Name, q url.Values) bool {
	return hmac.Equal([]byte(s.signature(n, q)), []byte(q.Get("sig")))
}

// meant is the blob that a request is about. azureml-core escapes the path of a URL again that is escaped already,
// so that a name with a space arrives with %20 in it; the signature tells which name is meant.
func (s *Store) meant(n Name, q url.Values) Name {
	if !strings.Contains(n.Path, "%") || s.signed(n, q) {
		return n
	}
	once := n
	var err error
	if once.Path, err = url.PathUnescape(n.Path); err != nil || !plain(once.Path) || !s.signed(once, q) {
		return n
	}
	return once
}

// allowed checks that a request's query is signed, in time, and for one of the permissions.
func (s *Store) allowed(n Name, q url.Values, permissions string) error {
	if q.Get("sig") == "" {
		return &failure{403, "AuthorizationFailure", "The request has no signature. Berth gives out signed URLs for its blobs; it does not take account keys."}
	}
	if !s.signed(n, q) {
		return &failure{403, "AuthenticationFailed", "The signature does not match the URL. Ask for a new URL."}
	}
	now := s.now()
	if end, err := time.Parse(time.RFC3339, q.Get("se")); err != nil || now.After(end) {
		return &failure{403, "AuthenticationFailed", "The signature has expired. Ask for a new URL."}
	}
	if start := q.Get("st"); start != "" {
		if begin, err := time.Parse(time.RFC3339, start); err != nil || now.Before(begin) {
			return &failure{403, "AuthenticationFailed", "The signature is not valid yet."}
		}
	}
	if !strings.ContainsAny(q.Get("sp"), permissions) {
		return &failure{403, "AuthorizationPermissionMismatch", "The URL was not signed for this. It allows: " + q.Get("sp") + "."}
	}
	return nil
}

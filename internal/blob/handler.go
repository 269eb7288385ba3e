package blob

import (
	"crypto/md5" //nolint:gosec // the protocol's checksum
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/tracing"
)

// Limits of Azure's for the API versions that clients use.
const (
	maxBlob      = 5000 << 20 // bytes, in one request
	maxBlock     = 4000 << 20 // bytes
	maxBlocks    = 50000
	maxBlockList = 8 << 20 // bytes of its XML
	maxPath      = 1024    // characters
	maxHashed    = 4 << 20 // bytes of a range that is answered with its checksum
)

// failure is an error as the protocol has them.
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// Handler speaks the protocol on the hosts of accounts.
func (s *Store) Handler(log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tracing.Route(r.Context(), "/{container}/{blob}")
		id := uuid.NewString()
		h := w.Header()
		h.Set("x-ms-request-id", id)
		h.Set("x-ms-version", signedVersion)
		if v := r.Header.Get("x-ms-version"); v != "" && len(v) < 32 {
			h.Set("x-ms-version", v)
		}
		if c := r.Header.Get("x-ms-client-request-id"); c != "" && len(c) <= 1024 {
			h.Set("x-ms-client-request-id", c)
		}
		err := s.serve(w, r)
		if err == nil {
			return
		}
		var f *failure
		if !errors.As(err, &f) {
			log.Error("serving a blob failed", "request_id", id, "method", r.Method, "path", r.URL.Path, "error", err)
			f = &failure{500, "InternalError", "Berth met an error that is not your request's fault. Try again; its log has the request ID."}
		}
		h.Set("x-ms-error-code", f.code)
		if f.status == http.StatusNotModified { // it has no body
			w.WriteHeader(f.status)
			return
		}
		h.Set("Content-Type", "application/xml")
		w.WriteHeader(f.status)
		if r.Method != http.MethodHead {
			body, _ := xml.Marshal(struct { // strings always marshal
				XMLName xml.Name `xml:"Error"`
				Code    string
				Message string
			}{Code: f.code, Message: f.message})
			_, _ = w.Write(append([]byte(xml.Header), body...)) // the client is gone when this fails
		}
	})
}

// named is the blob that a request is about.
func named(r *http.Request) (Name, error) {
	account, _, _ := strings.Cut(strings.ToLower(r.Host), ".")
	container, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if container == "" {
		return Name{}, &failure{400, "InvalidUri", "The URL names no container."}
	}
	if !plain(path) || len([]rune(path)) > maxPath {
		return Name{}, &failure{400, "InvalidUri", fmt.Sprintf("The name of a blob has at most %d characters, and no part of it is . or ..", maxPath)}
	}
	return Name{account, container, path}, nil
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request) error {
	n, err := named(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	n = s.meant(n, q)
	if over := len(n.object()) - s.limit; s.limit > 0 && over > 0 {
		return &failure{400, "InvalidResourceName", fmt.Sprintf("The blob's name is %d bytes longer than its bucket can keep. Shorten it.", over)}
	}
	comp := q.Get("comp")
	if n.Path == "" {
		if r.Method == http.MethodGet && comp == "list" && q.Get("restype") == "container" {
			return s.list(w, r, n, q)
		}
		return &failure{400, "UnsupportedOperation", "Berth has one container operation: List Blobs."}
	}
	switch {
	case r.Method == http.MethodPut && comp == "":
		return s.putBlob(w, r, n, q)
	case r.Method == http.MethodPut && comp == "block":
		return s.putBlock(w, r, n, q)
	case r.Method == http.MethodPut && comp == "blocklist":
		return s.putBlockList(w, r, n, q)
	case r.Method == http.MethodGet && comp == "blocklist":
		return s.blockList(w, r, n, q)
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && (comp == "" || comp == "metadata"):
		return s.get(w, r, n, q)
	case r.Method == http.MethodDelete && comp == "":
		if err := s.allowed(n, q, "d"); err != nil {
			return err
		}
		if err := s.conditions(r, n); err != nil {
			return err
		}
		if err := s.Delete(r.Context(), n); err != nil {
			return missing(err)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return &failure{400, "UnsupportedOperation", "Berth does not have the operation " + r.Method + " comp=" + comp + " of blobs. It has Put Blob, Put Block, Put Block List, Get Block List, Get Blob, Get Blob Properties and Delete Blob."}
}

func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return &failure{404, "BlobNotFound", "The specified blob does not exist."}
	}
	return err
}

// checksum reads what the client says of its content. Azure's client within azureml-core sends
// Content-SHA256, where others send Content-MD5.
func checksum(r *http.Request) (Checksum, error) {
	read := func(name, code string, size int) ([]byte, error) {
		text := r.Header.Get(name)
		if text == "" {
			return nil, nil
		}
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(sum) != size {
			return nil, &failure{400, code, fmt.Sprintf("The header %s is not %d bytes in base64.", name, size)}
		}
		return sum, nil
	}
	md5sum, err := read("Content-MD5", "InvalidMd5", 16)
	if err != nil {
		return Checksum{}, err
	}
	sha, err := read("Content-SHA256", "InvalidHeaderValue", 32)
	return Checksum{MD5: md5sum, SHA256: sha}, err
}

// stored turns the errors of storing content into the protocol's.
func stored(r *http.Request, err error) error {
	var big *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &big):
		return &failure{413, "RequestBodyTooLarge", fmt.Sprintf("The body is larger than the limit of %d bytes. Send the blob in blocks.", big.Limit)}
	case errors.Is(err, ErrChecksum):
		return &failure{400, "Md5Mismatch", "The content does not have the checksum in Content-MD5 or Content-SHA256: it was changed on its way. Send it again."}
	case errors.Is(err, ErrExists):
		return exists
	case errors.Is(err, syscall.ENAMETOOLONG):
		return &failure{400, "InvalidResourceName", "A part of the blob's name, between slashes, is longer than this storage can keep. Shorten it to 200 bytes."}
	case errors.Is(err, io.ErrUnexpectedEOF) || r.Context().Err() != nil:
		return &failure{400, "IncompleteBody", "The body ended early. Send it again."}
	}
	return err
}

func (s *Store) putBlob(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "wc"); err != nil {
		return err
	}
	if kind := r.Header.Get("x-ms-blob-type"); !strings.EqualFold(kind, "BlockBlob") {
		return &failure{400, "InvalidHeaderValue", "The header x-ms-blob-type is not BlockBlob; Berth keeps no page or append blobs."}
	}
	if r.Header.Get("x-ms-copy-source") != "" {
		return &failure{400, "UnsupportedOperation", "Berth does not copy blobs from URLs."}
	}
	u, err := s.upload(r, n, q)
	if err != nil {
		return err
	}
	if u.Type == "" {
		u.Type = r.Header.Get("Content-Type")
	}
	if u.Checksum, err = checksum(r); err != nil {
		return err
	}
	if err := s.Write(r.Context(), n, u, http.MaxBytesReader(w, r.Body, maxBlob)); err != nil {
		return stored(r, err)
	}
	return s.created(w, r, n, nil)
}

const metadataHeader = "X-Ms-Meta-"

// upload reads what a request says of the blob that it makes, and checks its conditions.
func (s *Store) upload(r *http.Request, n Name, q url.Values) (Upload, error) {
	u := Upload{Type: r.Header.Get("x-ms-blob-content-type"), Metadata: map[string]string{}}
	u.New = r.Header.Get("If-None-Match") == "*" || !strings.Contains(q.Get("sp"), "w") // c alone replaces nothing
	for k := range r.Header {
		if name, ok := strings.CutPrefix(k, metadataHeader); ok && name != "" {
			u.Metadata[strings.ToLower(name)] = r.Header.Get(k)
		}
	}
	return u, s.conditions(r, n)
}

// created answers with what the blob is now. sum is the request's checksum, where that is not the blob's.
func (s *Store) created(w http.ResponseWriter, r *http.Request, n Name, sum []byte) error {
	i, err := s.Stat(r.Context(), n)
	if err != nil {
		return missing(err) // somebody deleted it meanwhile
	}
	if sum != nil {
		i.MD5 = sum
	}
	i.headers(w.Header())
	w.Header().Set("x-ms-request-server-encrypted", "false")
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Store) putBlock(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "wc"); err != nil {
		return err
	}
	id := q.Get("blockid")
	if raw, err := base64.StdEncoding.DecodeString(id); err != nil || len(raw) == 0 || len(raw) > 64 {
		return &failure{400, "InvalidQueryParameterValue", "blockid is not 1 to 64 bytes in base64."}
	}
	sum, err := checksum(r)
	if err != nil {
		return err
	}
	if err := s.PutBlock(r.Context(), n, id, sum, http.MaxBytesReader(w, r.Body, maxBlock)); err != nil {
		return stored(r, err)
	}
	w.Header().Set("x-ms-request-server-encrypted", "false")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// blockList is the body of Put Block List: block IDs, each in an element that says where to look.
type blockList struct {
	XMLName xml.Name `xml:"BlockList"`
	Blocks  []struct {
		XMLName xml.Name
		ID      string `xml:",chardata"`
	} `xml:",any"`
}

func parseBlockList(body []byte) ([]string, error) {
	var list blockList
	if err := xml.Unmarshal(body, &list); err != nil {
		return nil, &failure{400, "InvalidXmlDocument", "The body is not a BlockList: " + err.Error() + "."}
	}
	if len(list.Blocks) > maxBlocks {
		return nil, &failure{400, "BlockCountExceedsLimit", fmt.Sprintf("A blob has at most %d blocks.", maxBlocks)}
	}
	var ids []string
	for _, b := range list.Blocks {
		switch b.XMLName.Local {
		case "Latest", "Uncommitted":
			ids = append(ids, strings.TrimSpace(b.ID))
		default:
			return nil, &failure{400, "InvalidBlockList", "Berth makes a blob of blocks that are not committed yet: use Latest or Uncommitted, not " + b.XMLName.Local + "."}
		}
	}
	return ids, nil
}

func (s *Store) putBlockList(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "wc"); err != nil {
		return err
	}
	u, err := s.upload(r, n, q)
	if err != nil {
		return err
	}
	sum, err := checksum(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(check(http.MaxBytesReader(w, r.Body, maxBlockList), sum, func() {}))
	if err != nil {
		return stored(r, err)
	}
	have := md5.Sum(body) //nolint:gosec // the protocol's checksum
	ids, err := parseBlockList(body)
	if err != nil {
		return err
	}
	err = s.Commit(r.Context(), n, ids, u)
	if errors.Is(err, ErrNotFound) {
		return &failure{400, "InvalidBlockList", "The specified block list is invalid: a block of it was never sent, or was committed in another list."}
	}
	if err != nil {
		return stored(r, err)
	}
	return s.created(w, r, n, have[:])
}

// blockList answers with the blocks of a blob that are not committed. Of those that are, no boundaries are kept.
func (s *Store) blockList(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "r"); err != nil {
		return err
	}
	which := strings.ToLower(q.Get("blocklisttype"))
	switch which {
	case "", "committed", "uncommitted", "all":
	default:
		return &failure{400, "InvalidQueryParameterValue", "blocklisttype is not committed, uncommitted or all."}
	}
	staged, err := s.Blocks(r.Context(), n)
	if err != nil {
		return err
	}
	if len(staged) == 0 {
		if _, err := s.Stat(r.Context(), n); err != nil {
			return missing(err)
		}
	}
	type blocks struct {
		Block []struct {
			Name string
			Size int64
		}
	}
	var out struct {
		XMLName     xml.Name `xml:"BlockList"`
		Committed   *blocks  `xml:"CommittedBlocks"`
		Uncommitted *blocks  `xml:"UncommittedBlocks"`
	}
	if which != "uncommitted" {
		out.Committed = &blocks{}
	}
	if which == "uncommitted" || which == "all" {
		out.Uncommitted = &blocks{}
		for _, b := range staged {
			out.Uncommitted.Block = append(out.Uncommitted.Block, struct {
				Name string
				Size int64
			}{b.ID, b.Size})
		}
	}
	return writeXML(w, out)
}

func writeXML(w http.ResponseWriter, v any) error {
	body, err := xml.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write(append([]byte(xml.Header), body...)) // the client is gone when this fails
	return nil
}

func (i Info) headers(h http.Header) {
	h.Set("ETag", i.etag())
	h.Set("Last-Modified", i.Modified.UTC().Format(http.TimeFormat))
	if len(i.MD5) > 0 {
		h.Set("Content-MD5", base64.StdEncoding.EncodeToString(i.MD5))
	}
}

func (i Info) etag() string {
	if i.ETag != "" {
		return i.ETag
	}
	return fmt.Sprintf(`"0x%X"`, i.Modified.UnixNano()^i.Size)
}

// exists is the answer to who wants to make a blob that is there.
var exists = &failure{409, "BlobAlreadyExists", "The specified blob already exists."}

// conditions checks the conditional headers of a request that changes a blob.
func (s *Store) conditions(r *http.Request, n Name) error {
	conditional := false
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		conditional = conditional || r.Header.Get(name) != ""
	}
	if !conditional {
		return nil
	}
	i, err := s.Stat(r.Context(), n)
	if errors.Is(err, ErrNotFound) {
		if r.Header.Get("If-Match") != "" {
			return &failure{412, "ConditionNotMet", "If-Match was given, and the blob does not exist."}
		}
		return nil
	}
	if err != nil {
		return err
	}
	if r.Header.Get("If-None-Match") == "*" {
		return exists
	}
	return i.conditions(r.Header, &failure{412, "ConditionNotMet", "The blob is what If-None-Match or If-Modified-Since excludes."})
}

// conditions checks conditional headers against a blob that is there. unchanged is the answer when the
// client has the blob already.
func (i Info) conditions(h http.Header, unchanged error) error {
	same := func(tags string) bool {
		for tag := range strings.SplitSeq(tags, ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || strings.Trim(tag, `"`) == strings.Trim(i.etag(), `"`) {
				return true
			}
		}
		return false
	}
	modified := i.Modified.Truncate(time.Second) // as headers have it
	if m := h.Get("If-Match"); m != "" && !same(m) {
		return &failure{412, "ConditionNotMet", "The blob changed: its ETag is not the one in If-Match."}
	}
	if t, err := http.ParseTime(h.Get("If-Unmodified-Since")); err == nil && modified.After(t) {
		return &failure{412, "ConditionNotMet", "The blob changed after the time in If-Unmodified-Since."}
	}
	if m := h.Get("If-None-Match"); m != "" {
		if same(m) {
			return unchanged
		}
		return nil
	}
	if t, err := http.ParseTime(h.Get("If-Modified-Since")); err == nil && !modified.After(t) {
		return unchanged
	}
	return nil
}

package blob

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"gocloud.dev/gcerrors"
)

// Limits of Azure's for the API versions that clients use.
const (
	maxBlock  = 4000 << 20 // bytes
	maxBlocks = 50000
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
		h.Set("Content-Type", "application/xml")
		h.Set("x-ms-error-code", f.code)
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
	return Name{account, container, path}, nil
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request) error {
	n, err := named(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
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
		if err := s.Delete(r.Context(), n); err != nil {
			return missing(err)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return &failure{400, "UnsupportedOperation", "Berth does not have the operation " + r.Method + " comp=" + comp + " of blobs."}
}

func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return &failure{404, "BlobNotFound", "The specified blob does not exist."}
	}
	return err
}

func checksum(r *http.Request) ([]byte, error) {
	text := r.Header.Get("Content-MD5")
	if text == "" {
		return nil, nil
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sum) != 16 {
		return nil, &failure{400, "InvalidMd5", "The header Content-MD5 is not 16 bytes in base64."}
	}
	return sum, nil
}

// stored turns the errors of storing content into the protocol's.
func stored(r *http.Request, err error) error {
	var big *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &big):
		return &failure{413, "RequestBodyTooLarge", fmt.Sprintf("The body is larger than the limit of %d bytes. Send the blob in blocks.", big.Limit)}
	case gcerrors.Code(err) == gcerrors.FailedPrecondition || strings.Contains(err.Error(), "MD5"):
		return &failure{400, "Md5Mismatch", "The content does not have the checksum in Content-MD5: it was changed on its way. Send it again."}
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
	if r.Header.Get("If-None-Match") == "*" {
		if _, err := s.Stat(r.Context(), n); err == nil {
			return &failure{409, "BlobAlreadyExists", "The specified blob already exists."}
		}
	}
	sum, err := checksum(r)
	if err != nil {
		return err
	}
	err = s.Write(r.Context(), n, contentType(r), sum, http.MaxBytesReader(w, r.Body, 5000<<20))
	if err != nil {
		return stored(r, err)
	}
	return s.created(w, r, n)
}

func contentType(r *http.Request) string {
	if t := r.Header.Get("x-ms-blob-content-type"); t != "" {
		return t
	}
	return r.Header.Get("Content-Type")
}

// created answers with what the blob is now.
func (s *Store) created(w http.ResponseWriter, r *http.Request, n Name) error {
	i, err := s.Stat(r.Context(), n)
	if err != nil {
		return err
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
	Blocks []struct {
		XMLName xml.Name
		ID      string `xml:",chardata"`
	} `xml:",any"`
}

func parseBlockList(body io.Reader) ([]string, error) {
	var list blockList
	if err := xml.NewDecoder(body).Decode(&list); err != nil {
		return nil, &failure{400, "InvalidXmlDocument", "The body is not a BlockList."}
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
	ids, err := parseBlockList(http.MaxBytesReader(w, r.Body, 8<<20))
	if err != nil {
		return err
	}
	err = s.Commit(r.Context(), n, ids, r.Header.Get("x-ms-blob-content-type"))
	if errors.Is(err, ErrNotFound) {
		return &failure{400, "InvalidBlockList", "The specified block list is invalid: a block of it was never sent, or was committed already."}
	}
	if err != nil {
		return stored(r, err)
	}
	return s.created(w, r, n)
}

func (s *Store) blockList(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "r"); err != nil {
		return err
	}
	ids, sizes, err := s.Blocks(r.Context(), n)
	if err != nil {
		return err
	}
	type block struct {
		Name string
		Size int64
	}
	var out struct {
		XMLName     xml.Name `xml:"BlockList"`
		Uncommitted []block  `xml:"UncommittedBlocks>Block"`
	}
	for i := range ids {
		out.Uncommitted = append(out.Uncommitted, block{ids[i], sizes[i]})
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

func (s *Store) get(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "r"); err != nil && (r.Method != http.MethodHead || s.allowed(n, q, "wc") != nil) {
		return err // who wrote a blob may ask whether it is there: azureml-core does after each upload
	}
	i, err := s.Stat(r.Context(), n)
	if err != nil {
		return missing(err)
	}
	h := w.Header()
	i.headers(h)
	h.Set("Content-Type", i.Type)
	h.Set("Accept-Ranges", "bytes")
	h.Set("x-ms-blob-type", "BlockBlob")
	h.Set("x-ms-creation-time", i.Modified.UTC().Format(http.TimeFormat))
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-server-encrypted", "false")
	if m := r.Header.Get("If-Match"); m != "" && m != "*" && m != i.etag() {
		return &failure{412, "ConditionNotMet", "The blob changed: its ETag is not the one in If-Match."}
	}
	if m := r.Header.Get("If-None-Match"); m == i.etag() {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	wanted := r.Header.Get("x-ms-range")
	if wanted == "" {
		wanted = r.Header.Get("Range")
	}
	offset, length, status := int64(0), i.Size, http.StatusOK
	if wanted != "" {
		if offset, length, err = parseRange(wanted, i.Size); err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", i.Size))
			return err
		}
		status = http.StatusPartialContent
		h.Del("Content-MD5") // it is the whole blob's
		if len(i.MD5) > 0 {
			h.Set("x-ms-blob-content-md5", base64.StdEncoding.EncodeToString(i.MD5))
		}
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, i.Size))
	}
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	content, err := s.Read(r.Context(), n, offset, length)
	if err != nil {
		return missing(err)
	}
	defer func() { _ = content.Close() }() // it was only read
	w.WriteHeader(status)
	_, _ = io.Copy(w, content) // the length tells the client that something is missing
	return nil
}

// parseRange reads bytes=a-b, bytes=a- and bytes=-n.
func parseRange(text string, size int64) (offset, length int64, err error) {
	bad := &failure{416, "InvalidRange", "The range is not within the blob's content."}
	spec, ok := strings.CutPrefix(strings.TrimSpace(text), "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return 0, 0, bad
	}
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n <= 0 || size == 0 {
			return 0, 0, bad
		}
		n = min(n, size)
		return size - n, n, nil
	}
	offset, err = strconv.ParseInt(first, 10, 64)
	if err != nil || offset < 0 || offset >= size {
		return 0, 0, bad
	}
	end := size - 1
	if last != "" {
		if end, err = strconv.ParseInt(last, 10, 64); err != nil || end < offset {
			return 0, 0, bad
		}
		end = min(end, size-1)
	}
	return offset, end - offset + 1, nil
}

// stop ends a listing that is full.
var errFull = errors.New("the page is full")

func (s *Store) list(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "l"); err != nil {
		return err
	}
	most := 5000
	if text := q.Get("maxresults"); text != "" {
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 {
			return &failure{400, "InvalidQueryParameterValue", "maxresults is not a number from 1 on."}
		}
		most = min(most, v)
	}
	type item struct {
		Name     string
		Modified string `xml:"Properties>Last-Modified"`
		ETag     string `xml:"Properties>Etag"`
		Size     int64  `xml:"Properties>Content-Length"`
		Type     string `xml:"Properties>BlobType"`
	}
	var out struct {
		XMLName    xml.Name `xml:"EnumerationResults"`
		Prefix     string
		Blobs      []item `xml:"Blobs>Blob"`
		NextMarker string
	}
	out.Prefix = q.Get("prefix")
	marker := q.Get("marker")
	err := s.List(r.Context(), n.Account, n.Container, out.Prefix, func(i Info) error {
		if i.Name.Path < marker {
			return nil
		}
		if len(out.Blobs) == most {
			out.NextMarker = i.Name.Path
			return errFull
		}
		out.Blobs = append(out.Blobs, item{i.Name.Path, i.Modified.UTC().Format(http.TimeFormat), i.etag(), i.Size, "BlockBlob"})
		return nil
	})
	if err != nil && !errors.Is(err, errFull) {
		return err
	}
	return writeXML(w, out)
}

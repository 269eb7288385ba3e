package blob

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the protocol's checksum
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

func (s *Store) get(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "r"); err != nil && (r.Method != http.MethodHead || s.allowed(n, q, "wc") != nil) {
		return err // who wrote a blob may ask whether it is there: azureml-core does after each upload
	}
	i, err := s.Stat(r.Context(), n)
	if err != nil {
		return missing(err)
	}
	h := w.Header()
	h.Set("ETag", i.etag())
	if err := i.conditions(r.Header, &failure{304, "ConditionNotMet", ""}); err != nil {
		return err
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
	}
	hashed := strings.EqualFold(r.Header.Get("x-ms-range-get-content-md5"), "true")
	if hashed && (wanted == "" || length > maxHashed) {
		return &failure{400, "InvalidHeaderValue", "x-ms-range-get-content-md5 goes with a range of at most 4 MiB."}
	}
	var content io.Reader
	if r.Method != http.MethodHead {
		file, err := s.Read(r.Context(), n, offset, length)
		if err != nil {
			return missing(err)
		}
		defer func() { _ = file.Close() }() // it was only read
		content = file
	}
	var part []byte
	if hashed && content != nil {
		if part, err = io.ReadAll(content); err != nil {
			return err
		}
		content = bytes.NewReader(part)
	}
	i.headers(h)
	h.Set("Content-Type", i.Type)
	h.Set("Accept-Ranges", "bytes")
	h.Set("x-ms-blob-type", "BlockBlob")
	h.Set("x-ms-creation-time", i.Modified.UTC().Format(http.TimeFormat))
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-server-encrypted", "false")
	for k, v := range i.Metadata {
		h.Set(metadataHeader+k, v)
	}
	if status == http.StatusPartialContent {
		h.Del("Content-MD5") // it is the whole blob's
		if part != nil {
			sum := md5.Sum(part) //nolint:gosec // the protocol's checksum
			h.Set("Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
		}
		if len(i.MD5) > 0 {
			h.Set("x-ms-blob-content-md5", base64.StdEncoding.EncodeToString(i.MD5))
		}
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, i.Size))
	}
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	w.WriteHeader(status)
	if content != nil {
		_, _ = io.Copy(w, content) // the length tells the client that something is missing
	}
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
	number := func(text string) (int64, bool) {
		n, err := strconv.ParseUint(text, 10, 63)
		return int64(n), err == nil //nolint:gosec // it has 63 bits
	}
	if first == "" {
		n, ok := number(last)
		if !ok || n == 0 || size == 0 {
			return 0, 0, bad
		}
		n = min(n, size)
		return size - n, n, nil
	}
	if offset, ok = number(first); !ok || offset >= size {
		return 0, 0, bad
	}
	end := size - 1
	if last != "" {
		if end, ok = number(last); !ok || end < offset {
			return 0, 0, bad
		}
		end = min(end, size-1)
	}
	return offset, end - offset + 1, nil
}

// errFull ends a listing that is full.
var errFull = errors.New("the page is full")

func (s *Store) list(w http.ResponseWriter, r *http.Request, n Name, q url.Values) error {
	if err := s.allowed(n, q, "l"); err != nil {
		return err
	}
	most := 5000
	if text := q.Get("maxresults"); text != "" {
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 {
			return &failure{400, "OutOfRangeQueryParameterValue", "maxresults is not a number from 1 on."}
		}
		most = min(most, v)
	}
	type item struct {
		Name     string
		Modified string `xml:"Properties>Last-Modified"`
		Size     int64  `xml:"Properties>Content-Length"`
		MD5      string `xml:"Properties>Content-MD5,omitempty"`
		Type     string `xml:"Properties>BlobType"`
	}
	type prefix struct{ Name string }
	var out struct {
		XMLName    xml.Name `xml:"EnumerationResults"`
		Container  string   `xml:"ContainerName,attr"`
		Prefix     string
		Marker     string
		MaxResults int
		Delimiter  string   `xml:",omitempty"`
		Blobs      []item   `xml:"Blobs>Blob"`
		Prefixes   []prefix `xml:"Blobs>BlobPrefix"`
		NextMarker string
	}
	out.Container, out.Prefix, out.Marker, out.MaxResults, out.Delimiter = n.Container, q.Get("prefix"), q.Get("marker"), most, q.Get("delimiter")
	last := "" // prefix that is shown
	err := s.List(r.Context(), n.Account, n.Container, out.Prefix, func(i Info) error {
		name, folded := i.Name.Path, false
		if before, _, ok := strings.Cut(name[len(out.Prefix):], out.Delimiter); ok && out.Delimiter != "" {
			name, folded = out.Prefix+before+out.Delimiter, true
		}
		if name < out.Marker || folded && name == last {
			return nil
		}
		if len(out.Blobs)+len(out.Prefixes) == most {
			out.NextMarker = name
			return errFull
		}
		if folded {
			last = name
			out.Prefixes = append(out.Prefixes, prefix{name})
			return nil
		}
		out.Blobs = append(out.Blobs, item{name, i.Modified.UTC().Format(http.TimeFormat), i.Size, base64.StdEncoding.EncodeToString(i.MD5), "BlockBlob"})
		return nil
	})
	if err != nil && !errors.Is(err, errFull) {
		return err
	}
	return writeXML(w, out)
}

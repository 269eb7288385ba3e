// Package artifact serves the artifacts of a workspace: files under origin/container/path, which
// clients put into the workspace's storage by signed URLs. Models and the code of web
// services are made of them. It keeps nothing of its own: an artifact is there when its blob is.
package artifact

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the checksum that blobs are kept with
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/store"
)

const (
	// Container is the blob container of artifacts in a workspace's storage account, as in Azure; Logs is that of Berth's
	// own logs.
	Container = "azureml"
	Logs      = "logs"

	noun     = "artifacts"
	lifetime = 12 * time.Hour // of signed URLs: an upload of many gigabytes ends within it
	perCall  = 50             // paths, as in Azure
	perPage  = 500
)

// Service serves artifacts.
type Service struct{ Blobs *blob.Store }

// Account is the storage account of a workspace: the one it refers to, or, where it has
// none, one that follows from its ID and is nobody else's.
func Account(workspace *store.Resource) string {
	var doc struct {
		Properties struct{ StorageAccount string }
	}
	if json.Unmarshal(workspace.Spec, &doc) == nil && doc.Properties.StorageAccount != "" {
		if id, err := armid.Parse(doc.Properties.StorageAccount); err == nil {
			return strings.ToLower(id.Name())
		}
	}
	return Unique(workspace)
}

// Unique is a name that no other workspace has, not even one that is created later under the same ID. It has 21
// lower-case letters and digits.
func Unique(workspace *store.Resource) string {
	sum := sha256.Sum256([]byte(workspace.Key + workspace.Created.At.String()))
	return "berth" + hex.EncodeToString(sum[:])[:16]
}

// ID names an artifact: origin/container/path.
type ID string

func (s *Service) name(workspace *store.Resource, id ID) blob.Name {
	return blob.Name{Account: Account(workspace), Container: Container, Path: string(id)}
}

// Open reads an artifact that has a sum. Errors: blob.ErrNotFound; blob.ErrChecksum when it has another sum by now, and
// at its end when it is not what was uploaded.
func (s *Service) Open(ctx context.Context, workspace *store.Resource, id ID, sum string) (io.ReadCloser, error) {
	n := s.name(workspace, id)
	i, err := s.Blobs.Stat(ctx, n)
	if err != nil {
		return nil, err
	}
	if sumOf(i) != sum {
		return nil, blob.ErrChecksum
	}
	r, err := s.Blobs.Read(ctx, n, 0, -1)
	// Clouds look after what they keep, and not all have a checksum; S3's is the ETag, which is none for encrypted blobs.
	if err != nil || len(i.MD5) == 0 || strings.Contains(i.ETag, hex.EncodeToString(i.MD5)) {
		return r, err
	}
	return &verified{ReadCloser: r, sum: md5.New(), want: i.MD5}, nil //nolint:gosec // as above
}

// Sum is a text that changes when an artifact is uploaded again with another content. Errors: blob.ErrNotFound.
func (s *Service) Sum(ctx context.Context, workspace *store.Resource, of Info) (string, error) {
	if len(of.MD5) > 0 {
		return hex.EncodeToString(of.MD5), nil
	}
	i, err := s.Blobs.Stat(ctx, s.name(workspace, of.ID)) // lists have no ETag
	if err != nil {
		return "", err
	}
	return sumOf(i), nil
}

func sumOf(i blob.Info) string {
	if len(i.MD5) > 0 {
		return hex.EncodeToString(i.MD5)
	}
	return i.ETag
}

// verified fails at the end of content that does not have its checksum.
type verified struct {
	io.ReadCloser
	sum  hash.Hash
	want []byte
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.sum.Write(p[:n]) // a hash takes everything
	if errors.Is(err, io.EOF) && !bytes.Equal(v.sum.Sum(nil), v.want) {
		err = blob.ErrChecksum
	}
	return n, err
}

// WriteLog keeps a log of Berth's own, beside the artifacts of clients. LogURL is where anybody who has it reads it.
func (s *Service) WriteLog(ctx context.Context, workspace *store.Resource, path, text string) error {
	return s.Blobs.Write(ctx, log(workspace, path), blob.Upload{Type: "text/plain; charset=utf-8"}, strings.NewReader(text))
}

// LogURL is a signed URL of a log.
func (s *Service) LogURL(workspace *store.Resource, path string) string {
	return s.Blobs.URL(log(workspace, path), "r", lifetime)
}

func log(workspace *store.Resource, path string) blob.Name {
	return blob.Name{Account: Account(workspace), Container: Logs, Path: path}
}

// Info is one artifact of a list.
type Info struct {
	ID   ID
	Size int64
	MD5  []byte // empty where the bucket has none
}

// Under lists the artifacts whose ID is prefix or is below it.
func (s *Service) Under(ctx context.Context, workspace *store.Resource, prefix ID) ([]Info, error) {
	var out []Info
	folder := strings.TrimSuffix(string(prefix), "/")
	err := s.Blobs.List(ctx, Account(workspace), Container, folder, func(i blob.Info) error {
		if i.Name.Path == folder || strings.HasPrefix(i.Name.Path, folder+"/") {
			out = append(out, Info{ID(i.Name.Path), i.Size, i.MD5})
		}
		return nil
	})
	return out, err
}

// Register adds the handlers.
func (s *Service) Register(srv *dataplane.Server) {
	at := func(method, path string, verb dataplane.Verb, h dataplane.Handler) {
		srv.Handle(method, dataplane.Artifacts, "/artifacts"+path, noun, verb, h)
	}
	at("POST", "/batch/metadata/{origin}/{container}", dataplane.Write, s.create)
	at("GET", "/contentinfo/{origin}/{container}/{path...}", dataplane.Read, s.contentInfo)
	at("GET", "/write/{origin}/{container}/{path...}", dataplane.Write, s.writeInfo)
	at("GET", "/prefix/contentinfo/{origin}/{container}/{path...}", dataplane.Read, s.prefix)
	at("GET", "/metadata/{origin}/{container}/{path...}", dataplane.Read, s.metadata)
	at("DELETE", "/metadata/{origin}/{container}/{path...}", dataplane.Delete, s.remove)
	at("GET", "/content/{origin}/{container}/{path...}", dataplane.Read, s.content)
	at("GET", "/{origin}/{container}", dataplane.Read, s.list)
}

func wire(id ID) map[string]any {
	origin, rest, _ := strings.Cut(string(id), "/")
	box, file, _ := strings.Cut(rest, "/")
	return map[string]any{"artifactId": string(id), "origin": origin, "container": box, "path": file, "etag": nil, "dataPath": nil, "tags": nil}
}

func (s *Service) info(r *dataplane.Request, id ID, permissions string) map[string]any {
	w := wire(id)
	return map[string]any{"contentUri": s.Blobs.URL(s.name(r.Row, id), permissions, lifetime), "origin": w["origin"], "container": w["container"], "path": w["path"], "tags": nil}
}

func idOf(r *dataplane.Request, file string) (ID, error) {
	id := string(containerOf(r)) + "/" + file
	if file == "" || path.Clean("/"+id) != "/"+id {
		return "", armerr.Field("path", "%q is no path of an artifact: it is relative, with single slashes and without . or ..", file)
	}
	return ID(id), nil
}

func containerOf(r *dataplane.Request) ID {
	return ID(r.PathValue("origin") + "/" + r.PathValue("container"))
}

// create gives out the URLs to which the client then sends the content.
func (s *Service) create(r *dataplane.Request) (*dataplane.Reply, error) {
	var body struct{ Paths []struct{ Path string } }
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if len(body.Paths) == 0 || len(body.Paths) > perCall {
		return nil, armerr.Field("paths", "the list has %d paths; send 1 to %d in one request.", len(body.Paths), perCall)
	}
	artifacts, infos := map[string]any{}, map[string]any{}
	for _, p := range body.Paths {
		id, err := idOf(r, p.Path)
		if err != nil {
			return nil, err
		}
		a := wire(id)
		a["createdTime"] = dataplane.Timestamp(r.Manager.Now())
		artifacts[p.Path], infos[p.Path] = a, s.info(r, id, "rcw")
	}
	return dataplane.OK(map[string]any{"artifacts": artifacts, "artifactContentInformation": infos, "errors": map[string]any{}})
}

func (s *Service) stat(r *dataplane.Request) (ID, blob.Info, error) {
	id, err := idOf(r, r.PathValue("path"))
	if err != nil {
		return "", blob.Info{}, err
	}
	i, err := s.Blobs.Stat(r.Context(), s.name(r.Row, id))
	if errors.Is(err, blob.ErrNotFound) {
		e := armerr.New(armerr.CodeResourceNotFound, "The artifact '%s' was not found in the workspace '%s'.", id, r.Workspace.Name())
		return id, i, e
	}
	return id, i, err
}

func (s *Service) contentInfo(r *dataplane.Request) (*dataplane.Reply, error) {
	id, _, err := s.stat(r)
	if err != nil {
		return nil, err
	}
	return dataplane.OK(s.info(r, id, "r"))
}

func (s *Service) writeInfo(r *dataplane.Request) (*dataplane.Reply, error) {
	id, err := idOf(r, r.PathValue("path"))
	if err != nil {
		return nil, err
	}
	return dataplane.OK(s.info(r, id, "rcw"))
}

func (s *Service) metadata(r *dataplane.Request) (*dataplane.Reply, error) {
	id, i, err := s.stat(r)
	if err != nil {
		return nil, err
	}
	w := wire(id)
	w["createdTime"], w["size"] = dataplane.Timestamp(i.Modified), i.Size
	return dataplane.OK(w)
}

func (s *Service) remove(r *dataplane.Request) (*dataplane.Reply, error) {
	id, _, err := s.stat(r)
	if err != nil {
		return nil, err
	}
	if err := s.Blobs.Delete(r.Context(), s.name(r.Row, id)); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return nil, err
	}
	return &dataplane.Reply{Status: http.StatusOK}, nil
}

// content sends the client to the blob itself.
func (s *Service) content(r *dataplane.Request) (*dataplane.Reply, error) {
	id, _, err := s.stat(r)
	if err != nil {
		return nil, err
	}
	return &dataplane.Reply{Status: http.StatusFound, Header: http.Header{"Location": {s.Blobs.URL(s.name(r.Row, id), "r", lifetime)}}}, nil
}

func (s *Service) prefix(r *dataplane.Request) (*dataplane.Reply, error) {
	id := containerOf(r)
	if below := strings.Trim(r.PathValue("path"), "/"); below != "" { // azureml-core ends it with up to two slashes
		var err error
		if id, err = idOf(r, below); err != nil {
			return nil, err
		}
	}
	return s.page(r, id, func(i Info) map[string]any { return s.info(r, i.ID, "r") })
}

func (s *Service) list(r *dataplane.Request) (*dataplane.Reply, error) {
	return s.page(r, containerOf(r), func(i Info) map[string]any { return wire(i.ID) })
}

// page answers with a page of a list. The token is the ID that the next page begins with.
func (s *Service) page(r *dataplane.Request, under ID, show func(Info) map[string]any) (*dataplane.Reply, error) {
	all, err := s.Under(r.Context(), r.Row, under)
	if err != nil {
		return nil, err
	}
	token := ID(r.Param("continuationToken"))
	value, next := []any{}, any(nil)
	for _, i := range all {
		if i.ID < token {
			continue
		}
		if len(value) == perPage {
			next = string(i.ID)
			break
		}
		value = append(value, show(i))
	}
	return dataplane.OK(map[string]any{"value": value, "continuationToken": next, "nextLink": nil})
}

package image

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// Through lets nodes that do not reach the registry themselves fetch images from it: it answers the part of the OCI
// distribution API that a pull by digest needs, with what the registry says. Redirects are followed here, and nothing is
// kept. It gives only what is below berth/ in the registry's prefix, and asks nobody who he is: put a guard before it.
func (r *Registry) Through(log *slog.Logger) http.Handler {
	return &through{to: r, log: log, clients: map[string]client{}}
}

type through struct {
	to  *Registry
	log *slog.Logger

	mu      sync.Mutex
	clients map[string]client // by repository
}

// client is signed in for one repository.
type client struct {
	*http.Client
	until time.Time
}

const (
	// signedIn is how long credentials are used before they are looked up anew. A pull makes its requests within it.
	signedIn   = time.Minute
	maxClients = 100 // of which an installation needs a handful
)

func (t *through) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		deny(w, http.StatusMethodNotAllowed, transport.UnsupportedErrorCode, "Nodes only fetch images here.")
		return
	}
	at, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		deny(w, http.StatusNotFound, transport.UnsupportedErrorCode, "This is a registry; its API begins with /v2/.")
		return
	}
	if at == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	repo, kind, id, ok := t.parse(at)
	if !ok {
		deny(w, http.StatusNotFound, transport.NameUnknownErrorCode, "Nodes fetch Berth's own images here, by their digests.")
		return
	}
	res, err := t.fetch(req, repo, kind, id)
	if err != nil {
		if req.Context().Err() == nil {
			t.log.Warn("a node's pull failed", "repository", repo.Name(), "digest", id, "error", err)
		}
		deny(w, http.StatusBadGateway, transport.UnavailableErrorCode, err.Error())
		return
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
	case http.StatusNotFound:
		code := transport.ManifestUnknownErrorCode
		if kind == "blobs" {
			code = transport.BlobUnknownErrorCode
		}
		deny(w, http.StatusNotFound, code, "The registry "+t.to.Server()+" does not have it.")
		return
	default:
		status := http.StatusBadGateway // not 401: it is Berth that was refused, and not the node
		if res.StatusCode == http.StatusTooManyRequests {
			status = res.StatusCode
			if after := res.Header.Get("Retry-After"); after != "" {
				w.Header().Set("Retry-After", after)
			}
		}
		err := t.to.trouble("asking", repo, transport.CheckError(res))
		t.log.Warn("a node's pull failed", "repository", repo.Name(), "digest", id, "error", err)
		deny(w, status, transport.UnavailableErrorCode, err.Error())
		return
	}
	for _, h := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Docker-Content-Digest", "Etag"} {
		if v := res.Header.Get(h); v != "" {
			w.Header().Set(h, v)
		}
	}
	w.WriteHeader(res.StatusCode)
	if req.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, res.Body); err != nil {
		if req.Context().Err() == nil {
			t.log.Warn("a node's pull broke off", "repository", repo.Name(), "digest", id, "error", err)
		}
		panic(http.ErrAbortHandler) // so that the node sees that it has not got everything
	}
}

// parse reads <repository>/manifests|blobs/<digest>, of a repository that is Berth's.
func (t *through) parse(at string) (repo name.Repository, kind, id string, ok bool) {
	rest, id := path.Split(at)
	rest, kind = path.Split(strings.TrimSuffix(rest, "/"))
	if _, err := digest.Parse(id); err != nil || kind != "manifests" && kind != "blobs" {
		return repo, "", "", false
	}
	named, err := reference.ParseNamed(t.to.Server() + "/" + strings.TrimSuffix(rest, "/"))
	if err != nil {
		return repo, "", "", false
	}
	inner, below := strings.CutPrefix(named.Name(), t.to.Host+"/")
	if !below || !strings.HasPrefix(inner, "berth/") {
		return repo, "", "", false
	}
	repo, err = t.to.repository(inner)
	return repo, kind, id, err == nil
}

// fetch asks the registry. Credentials that it no longer takes are looked up anew once.
func (t *through) fetch(in *http.Request, repo name.Repository, kind, id string) (*http.Response, error) {
	for again := false; ; again = true {
		c, err := t.client(in.Context(), repo, again)
		if err != nil {
			return nil, t.to.trouble("asking", repo, err)
		}
		req, err := http.NewRequestWithContext(in.Context(), in.Method, repo.Scheme()+"://"+repo.RegistryStr()+"/v2/"+repo.RepositoryStr()+"/"+kind+"/"+id, nil)
		if err != nil {
			return nil, err
		}
		for _, h := range []string{"Accept", "Range", "If-Range"} {
			if v := in.Header.Values(h); v != nil {
				req.Header[h] = v
			}
		}
		req.Header.Set("Accept-Encoding", "identity") // a digest is of what is sent
		res, err := c.Do(req)
		if err != nil && (again || !answered(err, http.StatusUnauthorized, http.StatusForbidden)) {
			return nil, t.to.trouble("asking", repo, err)
		}
		if err != nil { // by the token server
			continue
		}
		if again || res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
			return res, nil
		}
		_ = res.Body.Close() // it was only read
	}
}

// client is signed in for a repository; anew makes it sign in again.
func (t *through) client(ctx context.Context, repo name.Repository, anew bool) (client, error) {
	key := repo.RepositoryStr()
	t.mu.Lock()
	c, ok := t.clients[key]
	t.mu.Unlock()
	if ok && !anew && time.Now().Before(c.until) {
		return c, nil
	}
	auth, err := authn.Resolve(ctx, keys{t.to}, repo)
	if err != nil {
		return client{}, err
	}
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, t.to.Transport, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return client{}, err
	}
	c = client{&http.Client{Transport: rt}, time.Now().Add(signedIn)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.clients) >= maxClients {
		clear(t.clients)
	}
	t.clients[key] = c
	return c, nil
}

// deny answers as registries do.
func deny(w http.ResponseWriter, status int, code transport.ErrorCode, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []transport.Diagnostic{{Code: code, Message: message}}}) // the node is gone when this fails
}

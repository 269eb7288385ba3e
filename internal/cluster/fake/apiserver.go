package fake

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"

	"github.com/berthdev/berth/internal/cluster/pki"
)

type typesUID = types.UID

var errOutdated = stderrors.New("the object has been modified; please apply your changes to the latest version and try again")

func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

// apiServer answers on a loopback port of its own like a Kubernetes API server: the same
// paths, verbs, errors, watches and authentication, with everything in memory. Whoever
// authenticates may do everything; schemas are not checked; server-side apply merges
// without owners.
type apiServer struct {
	version  string
	ca       *pki.Authority
	clients  *x509.CertPool
	objects  *objects
	endpoint string
	now      func() time.Time

	mu     sync.Mutex
	tokens map[string]string // service account token to user name

	server *http.Server
	done   chan struct{} // closed when the server is closed, which ends watches
}

func newAPIServer(ca *pki.Authority, kubernetesVersion, fqdn string, now func() time.Time) (*apiServer, error) {
	hosts := []string{"127.0.0.1", "localhost", "kubernetes.default.svc"}
	if fqdn != "" {
		hosts = append(hosts, fqdn)
	}
	pair, err := ca.Issue(pki.Request{CommonName: "kube-apiserver", Hosts: hosts}, now())
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("read back the fake API server's certificate: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a fake API server: %w", err)
	}
	s := &apiServer{
		version:  kubernetesVersion,
		ca:       ca,
		clients:  ca.Pool(),
		objects:  newObjects(now),
		endpoint: "https://" + listener.Addr().String(),
		now:      now,
		tokens:   map[string]string{},
		done:     make(chan struct{}),
	}
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		s.objects.createIfMissing(namespacesResource, "", object{
			"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
			"status": map[string]any{"phase": "Active"},
		})
	}
	s.server = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		// Handshakes that clients break off are not worth a line in Berth's log.
		ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{certificate},
			// Unknown clients get a 401 as from Kubernetes, not a failed handshake.
			ClientAuth: tls.RequestClientCert,
		},
	}
	go s.server.ServeTLS(listener, "", "") //nolint:errcheck // it returns only when close is called
	return s, nil
}

func (s *apiServer) close() {
	close(s.done)
	s.server.Close()
}

// user says who sends a request, or "".
func (s *apiServer) user(r *http.Request) string {
	if token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); isBearer {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.tokens[token]
	}
	for _, cert := range r.TLS.PeerCertificates {
		_, err := cert.Verify(x509.VerifyOptions{
			Roots:       s.clients,
			CurrentTime: s.now(),
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err == nil {
			return cert.Subject.CommonName
		}
	}
	return ""
}

func (s *apiServer) newToken(user string) string {
	token := rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = user
	return token
}

// ServeHTTP implements http.Handler.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.user(r) == "" {
		writeError(w, errors.NewUnauthorized("Unauthorized"))
		return
	}
	switch path := strings.TrimSuffix(r.URL.Path, "/"); path {
	case "/readyz", "/livez", "/healthz":
		fmt.Fprint(w, "ok")
	case "/version":
		major, rest, _ := strings.Cut(s.version, ".")
		minor, _, _ := strings.Cut(rest, ".")
		writeJSON(w, http.StatusOK, version.Info{Major: major, Minor: minor, GitVersion: "v" + s.version, Platform: "linux/amd64"})
	default:
		if answer := discovery(path); answer != nil {
			writeJSON(w, http.StatusOK, answer)
			return
		}
		request, err := parse(r)
		if err == nil {
			err = s.serve(w, r, request)
		}
		if err != nil {
			writeError(w, err)
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client is gone.
	_ = json.NewEncoder(w).Encode(body)
}

func writeError(w http.ResponseWriter, err error) {
	var status errors.APIStatus
	if !stderrors.As(err, &status) {
		status = errors.NewBadRequest(err.Error())
	}
	body := status.Status()
	body.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	writeJSON(w, int(body.Code), body)
}

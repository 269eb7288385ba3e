package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// sdkImages are the base images that azureml-core names when its user named none. They have Python
// and nothing that a model would need beyond it, so Berth's own takes their place.
const sdkImages = "mcr.microsoft.com/azureml/"

// baseImage is the image that an environment's docker.baseImage and docker.baseImageRegistry.address name together, nil
// where Berth's own base takes its place.
func baseImage(image, address string) (name.Reference, error) {
	ref := strings.TrimSpace(image)
	if ref == "" || strings.HasPrefix(ref, sdkImages) {
		return nil, nil
	}
	if address != "" && !strings.HasPrefix(ref, address+"/") {
		ref = address + "/" + ref
	}
	return name.ParseReference(ref)
}

// BaseRegistry is the host, with its port, that is asked for an environment's base image and shown the credentials of
// docker.baseImageRegistry: they belong to it and to no other. It is "" where none is asked.
func BaseRegistry(image, address string) string {
	ref, err := baseImage(image, address)
	if ref == nil || err != nil { // the builder says what is wrong with it
		return ""
	}
	return strings.ToLower(ref.Context().RegistryStr())
}

// fetch reads a base image of somebody else's. Its layers are read when they are needed. Errors: *UserError, also of what is
// read later, without anything that the registry said: a caller may have named a server that is none.
func (b *Builder) fetch(ctx context.Context, ref name.Reference, auth authn.Authenticator) (v1.Image, error) {
	trusted := ""
	if !b.Registry.Own {
		trusted = b.Registry.Server()
	}
	fault := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err() // it is no fault of the registry's
		}
		return &UserError{Code: BaseImageNotReachable, Message: explainBase(ref, auth, err)}
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(outside{trusted}), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return nil, fault(err)
	}
	if _, err := img.ConfigFile(); err != nil {
		return nil, fault(err)
	}
	return borrowed{img, fault}, nil
}

// borrowed is a base image whose layers' errors are not taken for those of the registry that they are copied to.
type borrowed struct {
	v1.Image
	fault func(error) error
}

// LayerByDigest is how the image that goes on this one finds its layers.
func (b borrowed) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	l, err := b.Image.LayerByDigest(h)
	if err != nil {
		return nil, b.fault(err)
	}
	if m, ok := l.(*remote.MountableLayer); ok { // within a registry it need not be copied
		return &remote.MountableLayer{Layer: borrowedLayer{m.Layer, b.fault}, Reference: m.Reference}, nil
	}
	return borrowedLayer{l, b.fault}, nil
}

type borrowedLayer struct {
	v1.Layer
	fault func(error) error
}

func (l borrowedLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.Layer.Compressed()
	if err != nil {
		return nil, &sourceError{l.fault(err)}
	}
	return r, nil
}

// outside leads to the registries of base images. Callers choose them, so that they must not be a way to what only this
// machine reaches: itself, and where a cloud tells a machine its secrets. The registry that berth up --registry names was
// chosen by who runs Berth, and may be anywhere. Through a proxy the proxy's rules count. Private networks are open:
// companies have their registries there.
type outside struct {
	trusted string // host of the registry that was chosen, "" for none
}

func (o outside) RoundTrip(req *http.Request) (*http.Response, error) {
	if proxy, err := http.ProxyFromEnvironment(req); proxy != nil || err != nil || o.trusted != "" && strings.EqualFold(req.URL.Host, o.trusted) {
		return remote.DefaultTransport.RoundTrip(req)
	}
	return direct.RoundTrip(req)
}

// direct looks at each address that a name stands for when it connects, also after a redirect.
var direct = func() http.RoundTripper {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DialContext = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if closed := closedTo(at.Addr()); closed != nil {
			return closed
		}
		return nil
	}}).DialContext
	return t
}()

// closedError says that callers may not choose an address.
type closedError struct{ own bool } // this machine's

func (e *closedError) Error() string {
	if e.own {
		return "it leads to Berth's own machine"
	}
	return "it leads to an address that no registry has"
}

// instances are where clouds tell a machine its secrets, beside link-local addresses: Azure, AWS, Alibaba.
var instances = map[netip.Addr]bool{
	netip.MustParseAddr("168.63.129.16"): true, netip.MustParseAddr("fd00:ec2::254"): true, netip.MustParseAddr("100.100.100.200"): true,
}

// closedTo is why callers may not choose an address, nil if they may.
func closedTo(ip netip.Addr) *closedError {
	ip = ip.Unmap().WithZone("")
	switch {
	case ip.IsLoopback() || ip.IsUnspecified():
		return &closedError{own: true}
	case ip.IsLinkLocalUnicast() || ip.IsMulticast() || instances[ip]:
		return &closedError{}
	}
	return nil
}

// explainBase says why a base image cannot be read, and what to do about it.
func explainBase(ref name.Reference, auth authn.Authenticator, err error) string {
	server := ref.Context().RegistryStr()
	what := fmt.Sprintf("The base image %q cannot be read: ", ref)
	var closed *closedError
	var untrusted *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var refused *transport.Error
	var lookup *net.DNSError
	var network *net.OpError
	switch {
	case errors.As(err, &closed) && closed.own:
		return what + fmt.Sprintf("its registry %s is on Berth's own machine, or redirects there, where only the registry is asked that berth up --registry names. Push the image to another registry, or have Berth started with that one.", server)
	case errors.As(err, &closed):
		return what + fmt.Sprintf("its registry %s, or what that redirects to, is at an address that no registry has. Check its name.", server)
	case errors.As(err, &untrusted):
		return what + fmt.Sprintf("the certificate of the registry %s is not trusted by Berth's machine. Ask who runs Berth to add its authority there, or use another registry.", server)
	case errors.As(err, &noTLS) || errors.Is(err, http.ErrSchemeMismatch):
		return what + fmt.Sprintf("the registry %s does not speak TLS. Use one that does.", server)
	case (answered(err, http.StatusUnauthorized, http.StatusForbidden) || said(err, transport.UnauthorizedErrorCode, transport.DeniedErrorCode)) && auth == authn.Anonymous:
		return what + fmt.Sprintf("the registry %s gives it to nobody in particular. Give a user and a password in docker.base_image_registry, and check the image's name.", server)
	case answered(err, http.StatusUnauthorized, http.StatusForbidden) || said(err, transport.UnauthorizedErrorCode, transport.DeniedErrorCode):
		return what + fmt.Sprintf("the user and password in docker.base_image_registry are wrong for the registry %s, or do not suffice.", server)
	case answered(err, http.StatusNotFound) || said(err, transport.NameUnknownErrorCode, transport.ManifestUnknownErrorCode, transport.BlobUnknownErrorCode):
		return what + fmt.Sprintf("the registry %s does not have it. Check its name and tag.", server)
	case errors.As(err, &refused):
		return what + fmt.Sprintf("the registry %s answers with status %d. Deploy again later.", server, refused.StatusCode)
	case errors.As(err, &lookup):
		return what + fmt.Sprintf("there is no host %s. Check the image's name and docker.base_image_registry.", lookup.Name)
	case errors.As(err, &network):
		return what + fmt.Sprintf("the registry %s cannot be reached from Berth's machine: %v.", server, network.Err)
	}
	return what + fmt.Sprintf("what the registry %s sends is no image for linux/amd64. Check its name and tag.", server)
}

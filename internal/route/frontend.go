package route

import "time"

// What attaching puts into a workspace's namespace for its front ends, and these rely on. Names are the original's where it
// has them.
const (
	// CertificateSecret is absent without TLS. Its entries are PEM.
	CertificateSecret = "azuremlfessl"
	CertificateEntry  = "cert.pem"
	KeyEntry          = "key.pem"
	// PeersSecret holds what front ends show each other, and PeersService names them.
	PeersSecret  = "azureml-fe-peers"
	TokenEntry   = "token"
	PeersService = "azureml-fe-int-http"

	// Variables of a front end's environment.
	AddressVariable   = "POD_IP"
	NamespaceVariable = "POD_NAMESPACE"

	// Where a front end listens: for callers, for other front ends, and for Kubernetes and Prometheus.
	HTTPPort   = 8080
	HTTPSPort  = 8443
	PeersPort  = 9001
	StatusPort = 8081

	// Paths of the status port.
	ReadyPath = "/healthz/ready"
	LivePath  = "/healthz/live"
)

// LeavingPeriod is how long a front end that is to stop goes on as if it were not, so that load balancers and other front ends notice
// that it leaves, and clients that keep connections are told to close them.
const LeavingPeriod = 3 * time.Second

// MaxDrain bounds how long a front end that is to stop finishes requests: a pod's end has to be agreed with Kubernetes before
// anybody knows the services. It is the longest scoring timeout, and some minutes for the queue and for slow clients.
const MaxDrain = 65 * time.Minute

// MemoryTarget is what Go is told in GOMEMLIMIT to get along with, in bytes: there it collects garbage as often as it takes, before the container's
// limit ends it.
const MemoryTarget = 440 << 20

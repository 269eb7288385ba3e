package machinelearning

import (
	"context"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/rp/containerservice"
	"github.com/berthdev/berth/internal/store"
)

// Attacher looks into a cluster and prepares it for a workspace. Package attachment does
// it for real clusters.
type Attacher interface {
	// Inspect reads the cluster's version and nodes.
	Inspect(ctx context.Context, kubeconfig []byte) (attachment.Found, error)
	// Prepare puts the workspace's part into the cluster; it is idempotent.
	// Errors: *attachment.HeldError when another compute holds the workspace's part.
	Prepare(ctx context.Context, kubeconfig []byte, a attachment.Attachment, f *attachment.FrontEnd) error
	// FrontEnd reports how the workspace's front end does.
	FrontEnd(ctx context.Context, kubeconfig []byte, a attachment.Attachment) (attachment.FrontEndStatus, error)
	// Remove takes it out again; done is false while something is left.
	Remove(ctx context.Context, kubeconfig []byte, a attachment.Attachment) (done bool, err error)
}

// Service is the provider. Its fields do not change once it is in use.
type Service struct {
	Tenant       string
	Installation string // names this Berth in clusters
	// DataPlane is the base URL of the data plane of a region, without a slash at its end.
	DataPlane  func(location string) string
	Clusters   *containerservice.Service
	Attach     Attacher
	Kubernetes VersionRange
	// FrontEnd is what of a workspace's front ends is the same in all clusters: their image and how to fetch it. nil
	// where clusters run no pods.
	FrontEnd func(ctx context.Context, workspace armid.ID) (attachment.FrontEnd, error)
	// ServicesOn names the web services on a compute.
	ServicesOn func(tx store.ReadTx, compute armid.ID) ([]string, error)
}

// Types are the declarations of the provider's types.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{s.workspaceType(), s.computeType()}
}

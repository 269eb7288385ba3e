package machinelearning

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
)

// What a compute says of its load balancer, its purpose and TLS is what its front end gets, with what is its workspace's.
func TestFrontEnd(t *testing.T) {
	t.Parallel()
	s := &Service{FrontEnd: func(_ context.Context, workspace armid.ID) (attachment.FrontEnd, error) {
		return attachment.FrontEnd{Image: "fe", Registry: []byte(workspace.String())}, nil
	}}
	workspace := armid.Subscription("00000000-0000-0000-0000-000000000001").Group("rg").Extend("Microsoft.MachineLearningServices", "workspaces", "ws")
	for name, tt := range map[string]struct {
		aks  AKS
		want attachment.FrontEnd
	}{
		"production":       {AKS{ClusterPurpose: FastProd, LoadBalancerType: "PublicIp"}, attachment.FrontEnd{Image: "fe", Replicas: 3}},
		"dev-test":         {AKS{ClusterPurpose: DevTest, LoadBalancerType: "PublicIp"}, attachment.FrontEnd{Image: "fe", Replicas: 1}},
		"inside only":      {AKS{ClusterPurpose: DevTest, LoadBalancerType: "InternalLoadBalancer"}, attachment.FrontEnd{Image: "fe", Replicas: 1, Internal: true}},
		"TLS":              {AKS{ClusterPurpose: DevTest, SSLConfiguration: &SSL{Status: "Enabled", Cert: "cert"}}, attachment.FrontEnd{Image: "fe", Replicas: 1, Certificate: []byte("cert"), Key: []byte("key")}},
		"TLS switched off": {AKS{ClusterPurpose: DevTest, SSLConfiguration: &SSL{Status: "Disabled"}}, attachment.FrontEnd{Image: "fe", Replicas: 1}},
	} {
		tt.want.Registry = []byte(workspace.String())
		o := &object{ID: workspace.Child("computes", "c"), Spec: &resource.Document[Compute]{Properties: Compute{Properties: &tt.aks}}}
		o.Secret = func(path string) (string, error) {
			if path != "properties.properties.sslConfiguration.key" {
				return "", errors.New("there is no such secret")
			}
			return "key", nil
		}
		got, err := s.frontEnd(t.Context(), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(&tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if f, err := (&Service{}).frontEnd(t.Context(), nil); f != nil || err != nil {
		t.Errorf("where clusters run no pods there is the front end %v, %v", f, err)
	}
}

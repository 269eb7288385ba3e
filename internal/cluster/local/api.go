package local

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// apiTimeout bounds one request to a cluster's API server, which may hang or be gone.
const apiTimeout = 2 * time.Second

// fieldManager names Berth in the objects that it applies.
const fieldManager = "berth"

//go:embed manifests/system.yaml
var systemManifests string

func (c *localCluster) restConfig() (*rest.Config, error) {
	data, err := os.ReadFile(c.pkiFile("provider.kubeconfig"))
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return nil, fmt.Errorf("read the provider's kubeconfig: %w", err)
	}
	config.Timeout = apiTimeout
	config.QPS = -1 // the provider makes a handful of requests
	return config, nil
}

func (c *localCluster) client() (kubernetes.Interface, error) {
	config, err := c.restConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// applySystem creates or restores what every cluster needs inside.
func (c *localCluster) applySystem(ctx context.Context) error {
	config, err := c.restConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(systemManifests, "${DNS_SERVICE_IP}", c.record.Network.DNSServiceIP)
	group, ctx := errgroup.WithContext(ctx)
	for document := range bytes.SplitSeq([]byte(text), []byte("\n---\n")) {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return fmt.Errorf("read the system manifests: %w", err)
		}
		resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		group.Go(func() error {
			options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
			if _, err := client.Resource(resource).Namespace(o.GetNamespace()).Apply(ctx, o.GetName(), &o, options); err != nil {
				return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sync/errgroup"
)

// kubernetesNamespace is where containerd's CRI plugin keeps its images.
const kubernetesNamespace = "k8s.io"

// imageLabels tell the CRI plugin that it manages an image, and that the kubelet must
// not remove it when disk space runs low: nothing could bring it back.
var imageLabels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// importImages waits until containerd answers and imports every archive that is not
// there yet. It comes before the kubelet because a pod that misses its image backs off
// for seconds.
func importImages(ctx context.Context, endpoint, folder string) error {
	ctx = namespaces.WithNamespace(ctx, kubernetesNamespace)
	containerd, err := client.New(strings.TrimPrefix(endpoint, "unix://"), client.WithTimeout(runtimePatience))
	if err != nil {
		return fmt.Errorf("connect to containerd at %s: %w", endpoint, err)
	}
	defer containerd.Close()
	if err := awaitServing(ctx, containerd); err != nil {
		return fmt.Errorf("containerd at %s does not answer: %w", endpoint, err)
	}
	if folder == "" {
		return nil
	}
	archives, err := filepath.Glob(filepath.Join(folder, "*.tar"))
	if err != nil {
		return fmt.Errorf("--images %s: %w", folder, err)
	}
	present, err := containerd.ListImages(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	if len(present) >= len(archives) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, archive := range archives {
		group.Go(func() error { return importImage(ctx, containerd, archive) })
	}
	return group.Wait()
}

func awaitServing(ctx context.Context, containerd *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, runtimePatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		serving, err := containerd.IsServing(ctx)
		if serving && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func importImage(ctx context.Context, containerd *client.Client, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	images, err := containerd.Import(ctx, file, client.WithImageLabels(imageLabels))
	if err != nil {
		return fmt.Errorf("import %s: %w", archive, err)
	}
	for _, image := range images {
		if err := client.NewImage(containerd, image).Unpack(ctx, "overlayfs"); err != nil {
			return fmt.Errorf("unpack %s: %w", image.Name, err)
		}
	}
	return nil
}

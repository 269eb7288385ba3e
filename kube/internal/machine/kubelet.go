package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/configfiles"
	utilfs "k8s.io/kubernetes/pkg/util/filesystem"

	"github.com/berthdev/berth/kube/internal/startup"
)

// runtimePatience is how long the kubelet's start waits for containerd, which is started
// at the same time and takes well under a second.
const runtimePatience = 30 * time.Second

// NewKubeletCommand returns a kubelet that takes the kubelet's own node flags, all its
// configuration from --config, the machine's size from --machine-…, and that first
// imports the image archives in --images into containerd.
func NewKubeletCommand() *cobra.Command {
	flags := options.NewKubeletFlags()
	var size Size
	var images string
	command := &cobra.Command{
		Use:           "kubelet",
		Short:         "Run a kubelet for a machine of a given size",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			if err := size.validate(); err != nil {
				return err
			}
			return run(genericapiserver.SetupSignalContext(), flags, size, images)
		},
	}
	flags.AddFlags(command.Flags())
	size.addFlags(command.Flags())
	command.Flags().StringVar(&images, "images", "", "folder of image archives (*.tar) to import before the start")
	return command
}

func run(ctx context.Context, flags *options.KubeletFlags, size Size, images string) error {
	config, err := loadConfig(ctx, flags.KubeletConfigFile)
	if err != nil {
		return err
	}
	if err := importImages(ctx, config.ContainerRuntimeEndpoint, images); err != nil {
		return err
	}
	if err := startup.AwaitAPIServer(ctx, flags.KubeConfig); err != nil {
		return err
	}
	server := &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}
	dependencies, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("prepare the kubelet: %w", err)
	}
	endpoint := config.ContainerRuntimeEndpoint
	cgroups := []string{cm.NodeAllocatableRoot(config.CgroupRoot, config.CgroupsPerQOS, config.CgroupDriver)}
	real, err := cadvisor.New(klog.FromContext(ctx), cadvisor.NewImageFsInfoProvider(endpoint), flags.RootDirectory,
		cgroups, cadvisor.UsingLegacyCadvisorStats(endpoint), config.LocalStorageCapacityIsolation, false)
	if err != nil {
		return fmt.Errorf("start cadvisor: %w", err)
	}
	dependencies.CAdvisorInterface = sizedCadvisor{Interface: real, size: size}
	return app.Run(ctx, server, dependencies, utilfeature.DefaultFeatureGate)
}

func loadConfig(ctx context.Context, file string) (*kubeletconfig.KubeletConfiguration, error) {
	loader, err := configfiles.NewFsLoader(&utilfs.DefaultFs{}, file)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	config, err := loader.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(config.FeatureGates); err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	logs.InitLogs()
	if err := logsapi.ValidateAndApplyAsField(&config.Logging, utilfeature.DefaultFeatureGate, field.NewPath("logging")); err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	if err := validation.ValidateKubeletConfiguration(config, utilfeature.DefaultFeatureGate); err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	return config, nil
}

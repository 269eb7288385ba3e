package app

import (
	"fmt"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/cluster/local"
)

// newProvider makes the cluster provider that the configuration names.
func newProvider(cfg Config, in Installation, registries []local.Registry) (cluster.Provider, error) {
	if cfg.UseProvider != nil {
		return cfg.UseProvider, nil
	}
	switch cfg.Provider {
	case "local":
		return local.New(local.Config{
			StateDir: cfg.Home.Clusters(), LibexecDir: cfg.Libexec, Installation: in.ID, Logger: cfg.Logger, Now: cfg.Now,
			Registries: registries,
		}), nil
	case "fake":
		faults, err := fake.ParseFaults(cfg.Faults)
		if err != nil {
			return nil, err
		}
		return fake.New(fake.NewWorld(), fake.Options{Faults: faults, Now: cfg.Now}), nil
	}
	return nil, fmt.Errorf("there is no cluster provider %q; the providers are local and fake", cfg.Provider)
}

// Package machine runs a kubelet whose machine is an Azure VM size: it reports that
// size's cores and memory, whatever the computer below has. Holding pods to them is
// up to the cgroup that the kubelet is told to work in.
package machine

import (
	"fmt"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cadvisor"
)

// Size is what the machine has.
type Size struct {
	Cores     int
	MemoryMiB uint64
}

func (s *Size) addFlags(fs *pflag.FlagSet) {
	fs.IntVar(&s.Cores, "machine-cores", 0, "cores that the node reports")
	fs.Uint64Var(&s.MemoryMiB, "machine-memory-mib", 0, "memory that the node reports, in MiB")
}

func (s *Size) validate() error {
	if s.Cores < 1 || s.MemoryMiB < 1 {
		return fmt.Errorf("--machine-cores and --machine-memory-mib must both be 1 or more, got %d and %d", s.Cores, s.MemoryMiB)
	}
	return nil
}

// sizedCadvisor is the real cadvisor, except for the size of the machine.
type sizedCadvisor struct {
	cadvisor.Interface
	size Size
}

// MachineInfo implements cadvisor.Interface.
func (c sizedCadvisor) MachineInfo(logger klog.Logger) (*cadvisorapi.MachineInfo, error) {
	real, err := c.Interface.MachineInfo(logger)
	if err != nil {
		return nil, err
	}
	info := *real
	info.NumCores = c.size.Cores
	info.MemoryCapacity = c.size.MemoryMiB << 20
	// The topology stays the computer's: the kubelet writes its CPU numbers into cpusets,
	// which take only CPUs that are really there.
	return &info, nil
}

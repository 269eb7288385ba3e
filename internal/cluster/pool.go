package cluster

import "fmt"

// CheckVMSize refuses to change the VM size of a pool that has nodes of another one:
// AKS never changes it either (R4).
func CheckVMSize(p Pool, current string) error {
	if p.VMSize.Name == current {
		return nil
	}
	return &Error{
		Kind: KindUser,
		Code: "PropertyChangeNotAllowed",
		Message: fmt.Sprintf("Node pool %q has nodes of size %s; the VM size of a pool cannot be changed to %s. Add a pool of that size, or create a new cluster.",
			p.Name, current, p.VMSize.Name),
	}
}

package cluster

import (
	"fmt"
	"strings"
)

// ResolveVersion picks the exact version for a wanted one, which is empty (the newest),
// a minor version such as "1.37" (its newest patch) or exact. offered is
// Capabilities.KubernetesVersions: newest last. The error is a KindUser *Error.
func ResolveVersion(offered []string, wanted string) (string, error) {
	for i := len(offered) - 1; i >= 0; i-- {
		if wanted == "" || offered[i] == wanted || strings.HasPrefix(offered[i], wanted+".") {
			return offered[i], nil
		}
	}
	return "", &Error{
		Kind:    KindUser,
		Code:    "K8sVersionNotSupported",
		Message: fmt.Sprintf("Kubernetes version %q is not offered here; choose one of: %s.", wanted, strings.Join(offered, ", ")),
	}
}

package fake

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is one resource type that the fake API server stores.
type kind struct {
	schema.GroupVersionKind
	resource   string
	namespaced bool
	short      []string
}

func (k kind) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.resource}
}

func (k kind) apiVersion() string { return k.GroupVersion().String() }

var (
	namespacesResource = schema.GroupResource{Resource: "namespaces"}
	nodesResource      = schema.GroupResource{Resource: "nodes"}
)

// kinds are the types on offer: what attaching and deploying need. One version of each.
var kinds = []kind{
	core("Namespace", "namespaces", false, "ns"),
	core("Node", "nodes", false, "no"),
	core("ServiceAccount", "serviceaccounts", true, "sa"),
	core("Secret", "secrets", true),
	core("ConfigMap", "configmaps", true, "cm"),
	core("Pod", "pods", true, "po"),
	core("Service", "services", true, "svc"),
	core("Event", "events", true, "ev"),
	core("LimitRange", "limitranges", true),
	core("ResourceQuota", "resourcequotas", true),
	grouped("rbac.authorization.k8s.io", "Role", "roles", true),
	grouped("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", true),
	grouped("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", false),
	grouped("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", false),
	grouped("coordination.k8s.io", "Lease", "leases", true),
	grouped("apps", "Deployment", "deployments", true, "deploy"),
	grouped("apps", "DaemonSet", "daemonsets", true, "ds"),
	grouped("batch", "Job", "jobs", true),
	grouped("policy", "PodDisruptionBudget", "poddisruptionbudgets", true, "pdb"),
	grouped("networking.k8s.io", "NetworkPolicy", "networkpolicies", true, "netpol"),
}

func core(name, resource string, namespaced bool, short ...string) kind {
	return grouped("", name, resource, namespaced, short...)
}

func grouped(group, name, resource string, namespaced bool, short ...string) kind {
	return kind{
		GroupVersionKind: schema.GroupVersionKind{Group: group, Version: "v1", Kind: name},
		resource:         resource, namespaced: namespaced, short: short,
	}
}

func findKind(group, version, resource string) (kind, bool) {
	for _, k := range kinds {
		if k.Group == group && k.Version == version && k.resource == resource {
			return k, true
		}
	}
	return kind{}, false
}

// discovery answers /api, /apis and the lists of resources below them; nil for other paths.
func discovery(path string) any {
	switch {
	case path == "/api":
		return metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	case path == "/apis":
		return groupList()
	case strings.HasPrefix(path, "/api"):
		return resourceList(strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/"))
	}
	return nil
}

func groupList() metav1.APIGroupList {
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	seen := []string{""}
	for _, k := range kinds {
		if slices.Contains(seen, k.Group) {
			continue
		}
		seen = append(seen, k.Group)
		version := metav1.GroupVersionForDiscovery{GroupVersion: k.apiVersion(), Version: k.Version}
		list.Groups = append(list.Groups, metav1.APIGroup{
			Name: k.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
		})
	}
	return list
}

func resourceList(groupVersion string) any {
	list := metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: groupVersion,
	}
	for _, k := range kinds {
		if k.apiVersion() == groupVersion {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: k.resource, Kind: k.Kind, Namespaced: k.namespaced, ShortNames: k.short,
				Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
			})
		}
	}
	if list.APIResources == nil {
		return nil
	}
	return list
}

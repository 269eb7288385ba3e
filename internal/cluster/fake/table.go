package fake

import (
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

func secondsToDuration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

// wantsTable says whether the client is kubectl get, which asks the server for columns.
func wantsTable(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Accept"), "application/json;as=Table")
}

// tableOf shows objects as an API server's table: name and age, and for nodes what
// "kubectl get nodes" shows.
func tableOf(k kind, items []object, revision string) metav1.Table {
	isNode := k.groupResource() == nodesResource
	table := metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: revision},
		ColumnDefinitions: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name"}, {Name: "Age", Type: "string"},
		},
	}
	if isNode {
		table.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name"}, {Name: "Status", Type: "string"}, {Name: "Roles", Type: "string"},
			{Name: "Age", Type: "string"}, {Name: "Version", Type: "string"},
		}
	}
	for _, o := range items {
		u := &unstructured.Unstructured{Object: o}
		age := duration.HumanDuration(time.Since(u.GetCreationTimestamp().Time))
		cells := []any{u.GetName(), age}
		if isNode {
			node := nodeOf(o, true)
			status := "Ready"
			if unschedulable, _, _ := unstructured.NestedBool(o, "spec", "unschedulable"); unschedulable {
				status += ",SchedulingDisabled"
			}
			cells = []any{node.Name, status, "<none>", age, "v" + node.Version}
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: u}})
	}
	return table
}

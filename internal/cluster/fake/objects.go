package fake

import (
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// object is one Kubernetes object as decoded JSON. An object in the store is never
// changed, only replaced, so that readers need no lock.
type object = map[string]any

func nameOf(o object) string               { return (&unstructured.Unstructured{Object: o}).GetName() }
func namespaceOf(o object) string          { return (&unstructured.Unstructured{Object: o}).GetNamespace() }
func labelsOf(o object) map[string]string  { return (&unstructured.Unstructured{Object: o}).GetLabels() }
func isIn(o object, namespace string) bool { return namespace == "" || namespaceOf(o) == namespace }

type key struct{ namespace, name string }

type event struct {
	kind      string // ADDED, MODIFIED, DELETED
	resource  schema.GroupResource
	object    object
	revision  int
	namespace string
}

// objects is the API server's storage: every object, and every change so far for watchers.
type objects struct {
	now func() time.Time

	mu       sync.Mutex
	revision int
	kinds    map[schema.GroupResource]map[key]object
	history  []event
	changed  chan struct{} // closed and replaced at every change
}

func newObjects(now func() time.Time) *objects {
	return &objects{now: now, kinds: map[schema.GroupResource]map[key]object{}, changed: make(chan struct{})}
}

func (s *objects) list(r schema.GroupResource, namespace string) []object {
	list, _ := s.listAt(r, namespace)
	return list
}

// listAt returns the objects in the order of their names, and the revision of that list.
func (s *objects) listAt(r schema.GroupResource, namespace string) ([]object, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []object{}
	for _, o := range s.kinds[r] {
		if isIn(o, namespace) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b object) int {
		return strings.Compare(namespaceOf(a)+"/"+nameOf(a), namespaceOf(b)+"/"+nameOf(b))
	})
	return list, s.revision
}

func (s *objects) get(r schema.GroupResource, namespace, name string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, exists := s.kinds[r][key{namespace, name}]
	if !exists {
		return nil, errors.NewNotFound(r, name)
	}
	return o, nil
}

func (s *objects) create(r schema.GroupResource, namespace string, o object) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := (&unstructured.Unstructured{Object: o}).DeepCopy()
	if u.GetName() == "" && u.GetGenerateName() != "" {
		u.SetName(u.GetGenerateName() + strings.ToLower(rand.Text()[:5]))
	}
	if u.GetName() == "" {
		return nil, errors.NewBadRequest("metadata.name: name or generateName is required")
	}
	if _, exists := s.kinds[r][key{namespace, u.GetName()}]; exists {
		return nil, errors.NewAlreadyExists(r, u.GetName())
	}
	if namespace != "" {
		u.SetNamespace(namespace)
		if _, exists := s.kinds[namespacesResource][key{name: namespace}]; !exists {
			return nil, errors.NewNotFound(namespacesResource, namespace)
		}
	}
	u.SetUID(newUID())
	u.SetCreationTimestamp(metaTime(s.now()))
	return s.put(r, namespace, u, "ADDED"), nil
}

// createIfMissing is create for the provider's own objects.
func (s *objects) createIfMissing(r schema.GroupResource, namespace string, o object) {
	if _, err := s.create(r, namespace, o); err != nil && !errors.IsAlreadyExists(err) {
		panic(err) // the provider's own objects have names and existing namespaces
	}
}

// update replaces an object by what change makes of it. Like an API server it refuses
// a change that was made from an outdated version, and keeps what nobody may change.
func (s *objects) update(r schema.GroupResource, namespace, name string, change func(object) (object, error)) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	current, exists := s.kinds[r][key{namespace, name}]
	if !exists {
		return nil, errors.NewNotFound(r, name)
	}
	old := &unstructured.Unstructured{Object: current}
	changed, err := change(old.DeepCopy().Object)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: changed}
	if v := u.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, errors.NewConflict(r, name, errOutdated)
	}
	u.SetName(name)
	u.SetUID(old.GetUID())
	u.SetCreationTimestamp(old.GetCreationTimestamp())
	if namespace != "" {
		u.SetNamespace(namespace)
	}
	return s.put(r, namespace, u, "MODIFIED"), nil
}

// delete removes an object; with a namespace goes everything in it.
func (s *objects) delete(r schema.GroupResource, namespace, name string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, exists := s.kinds[r][key{namespace, name}]
	if !exists {
		return nil, errors.NewNotFound(r, name)
	}
	if r == namespacesResource {
		for other, stored := range s.kinds {
			for k, inside := range stored {
				if k.namespace == name {
					s.drop(other, k, inside)
				}
			}
		}
	}
	s.drop(r, key{namespace, name}, o)
	return o, nil
}

func (s *objects) drop(r schema.GroupResource, k key, o object) {
	delete(s.kinds[r], k)
	s.announce(event{kind: "DELETED", resource: r, object: o, namespace: k.namespace})
}

func (s *objects) put(r schema.GroupResource, namespace string, u *unstructured.Unstructured, kind string) object {
	if s.kinds[r] == nil {
		s.kinds[r] = map[key]object{}
	}
	u.SetResourceVersion(strconv.Itoa(s.revision + 1))
	s.kinds[r][key{namespace, u.GetName()}] = u.Object
	s.announce(event{kind: kind, resource: r, object: u.Object, namespace: namespace})
	return u.Object
}

func (s *objects) announce(e event) {
	s.revision++
	e.revision = s.revision
	s.history = append(s.history, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

// since returns the changes after a revision, the revision they lead to, and a channel
// that is closed at the next change.
func (s *objects) since(revision int) ([]event, int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []event
	for _, e := range s.history {
		if e.revision > revision {
			events = append(events, e)
		}
	}
	return events, s.revision, s.changed
}

func newUID() typesUID { return typesUID(uuid.NewString()) }

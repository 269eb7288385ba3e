package serving

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/internal/digest"
	"github.com/berthdev/berth/internal/route"
)

// Written are digests of objects as the API server kept them when Berth wrote them last, with all that it filled in, by
// kind and name. An object with another digest now was changed by somebody else. It may be lost: then each object is
// written once more.
type Written map[string]string

// objects are the objects of one kind in a namespace.
type objects[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*T, error)
	Create(ctx context.Context, o *T, opts metav1.CreateOptions) (*T, error)
	Update(ctx context.Context, o *T, opts metav1.UpdateOptions) (*T, error)
}

// write makes the cluster have an object, whose annotation says what Berth wants of it. spec is what is Berth's of one that
// is there. fit, if any, gives want what may stay of the one that is there, and reports whether that fits already.
func write[T any, P interface {
	*T
	metav1.Object
}](ctx context.Context, api objects[T], kind string, want P, written Written, spec func(P) any, fit func(have, want P) bool) error {
	key := kind + "/" + want.GetName()
	now, err := api.Get(ctx, want.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		now, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err == nil:
		have := P(now)
		if owner := have.GetLabels()[route.ServiceLabel]; owner != "" && owner != want.GetLabels()[route.ServiceLabel] {
			return fmt.Errorf("it is still the web service %s's", owner)
		}
		fits := fit == nil || fit(have, want)
		if fits && have.GetAnnotations()[specAnnotation] == want.GetAnnotations()[specAnnotation] && written[key] == digest.Of(spec(have)) {
			return nil
		}
		want.SetResourceVersion(have.GetResourceVersion())
		now, err = api.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	written[key] = digest.Of(spec(now))
	return nil
}

func serviceSpec(s *corev1.Service) any              { return []any{s.Labels, s.Spec} }
func budgetSpec(b *policyv1.PodDisruptionBudget) any { return []any{b.Labels, b.Spec} }
func deploymentSpec(d *appsv1.Deployment) any {
	spec := d.Spec.DeepCopy()
	spec.Replicas = nil
	for i := range spec.Template.Spec.Containers {
		spec.Template.Spec.Containers[i].Resources = corev1.ResourceRequirements{}
	}
	return []any{d.Labels, spec}
}

// Refusal is why Kubernetes will never take what Apply wrote, in its own words; "" where the error may pass.
func Refusal(err error) string {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) { // of a workspace that is detached and attached again
		return ""
	}
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) && !apierrors.IsRequestEntityTooLargeError(err) {
		return ""
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return ""
	}
	return status.Status().Message
}

package service_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/store"
)

var reference = regexp.MustCompile(`registry\.test/[^"\s]+@sha256:[0-9a-f]+`)

// needs are the artifacts and images that the web services need, sorted.
func (s *server) needs() (artifacts, images []string) {
	s.T.Helper()
	s.check(s.Manager.Store.View(s.T.Context(), func(tx store.ReadTx) error {
		return service.Needs(tx, func(_ string, id artifact.ID) { artifacts = append(artifacts, string(id)) }, func(ref string) { images = append(images, ref) })
	}))
	slices.Sort(artifacts)
	slices.Sort(images)
	return slices.Compact(artifacts), slices.Compact(images)
}

func unique(refs []string) []string {
	slices.Sort(refs)
	return slices.Compact(refs)
}

// Whatever a cluster is told to run is named in the store before it is, so that no crash leaves it running images that
// may be removed; it stays named while anything may run it, also what serves on after a failed update.
func TestImagesAreNamedBeforeTheyRun(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.register("rose", "ScikitLearn")
	told := 0
	s.kube.PrependReactor("*", "deployments", func(a kubetesting.Action) (bool, runtime.Object, error) {
		var what string
		switch a := a.(type) {
		case kubetesting.PatchAction:
			what = string(a.GetPatch())
		case kubetesting.UpdateAction: // it has what a CreateAction has
			what = text(a.GetObject())
		default:
			return false, nil, nil
		}
		_, named := s.needs()
		for _, ref := range reference.FindAllString(what, -1) {
			if told++; !slices.Contains(named, ref) {
				t.Errorf("the cluster is told to run %s; the store names %q", ref, named)
			}
		}
		return false, nil, nil
	})
	s.deploy(deployment("iris", nil))
	running := func() []string { return unique(reference.FindAllString(text(s.kubeDeployment("iris").Spec), -1)) }
	first := running()
	if artifacts, images := s.needs(); !slices.Equal(images, first) || len(first) != 3 || !slices.Equal(artifacts, []string{"LocalUpload/code/driver.py", "LocalUpload/code/score.py"}) {
		t.Fatalf("it needs %q and %q, and runs %q", artifacts, images, first)
	}
	op := s.patch("iris", "/environmentImageRequest", imageRequest(object{"modelIds": []string{"rose:1"}}))
	s.pass()
	second := running()
	both := unique(slices.Concat(first, second))
	if _, images := s.needs(); !slices.Equal(images, both) || len(both) != 5 {
		t.Fatalf("during the update it needs %q, want %q", images, both)
	}
	s.pod("iris", s.crashed(2))
	s.after(time.Second)
	s.noPod("iris")
	s.ended(op, "Failed")
	if now := running(); !slices.Equal(now, first) {
		t.Fatalf("after the failed update the cluster runs %q", now)
	}
	s.restart()
	s.check(s.Manager.Store.WakeAll(t.Context(), s.Now(), time.Second))
	s.serve()
	_, images := s.needs()
	for _, ref := range first {
		if !slices.Contains(images, ref) {
			t.Errorf("%s still serves, and is not needed: %q", ref, images)
		}
	}
	op = s.patch("iris", "/description", "again")
	s.pass()
	s.serve()
	s.ended(op, "Succeeded")
	if _, images := s.needs(); !slices.Equal(images, second) {
		t.Errorf("after an update that succeeded it needs %q, want %q", images, second)
	}
	if told < 6 {
		t.Fatalf("the cluster was told of %d images; that proves nothing", told)
	}
	s.Want(202, "DELETE", mms, "/services/iris", "")
	s.pass()
	s.pass()
	if artifacts, images := s.needs(); len(artifacts)+len(images) > 0 {
		t.Errorf("after its deletion it needs %q and %q", artifacts, images)
	}
}

// A cluster that cannot be told at the moment is told later, of images that stay meanwhile.
func TestImagesOfAnUntoldCluster(t *testing.T) {
	t.Parallel()
	s := start(t)
	broken := true
	s.kube.PrependReactor("*", "deployments", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if broken && a.GetVerb() != "list" {
			return true, nil, errors.New("the API server is away")
		}
		return false, nil, nil
	})
	s.create(deployment("iris", nil))
	s.pass()
	if _, images := s.needs(); len(images) != 3 {
		t.Errorf("it needs %q", images)
	}
	broken = false
	s.after(time.Minute)
	s.serve()
	s.is("iris", "Healthy")
}

// Two workspaces whose clients chose the same names for what they uploaded have images of their own.
func TestRepositoriesAreAWorkspacesOwn(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	var own string
	s.check(s.Manager.Store.View(t.Context(), func(tx store.ReadTx) error {
		row, err := tx.Resource(s.Workspace.Key())
		if err == nil {
			own = artifact.Unique(row)
		}
		return err
	}))
	for _, kind := range []string{"code", "models"} {
		repo := regexp.MustCompile(fmt.Sprintf(`registry\.test/berth/workspaces/%s/%s@`, own, kind))
		if spec := text(s.kubeDeployment("iris").Spec); !repo.MatchString(spec) {
			t.Errorf("no image of the workspace's %s is in %s", kind, spec)
		}
	}
}

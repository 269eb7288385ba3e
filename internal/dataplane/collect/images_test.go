package collect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/store"
)

// push makes an image of a file.
func (s *server) push(repo, content string) image.Reference {
	s.T.Helper()
	ref, err := s.images.Files(s.T.Context(), repo, content, []image.File{{Path: "f", Size: int64(len(content)), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}})
	s.check(err)
	return ref
}

// pull fetches an image as a node does: by its digest, with its layers.
func (s *server) pull(ref image.Reference) error {
	d, err := name.NewDigest(string(ref), name.Insecure)
	s.check(err)
	img, err := remote.Image(d, remote.WithTransport(s.images.Transport), remote.WithAuth(&authn.Basic{Username: "berth", Password: "secret"}))
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r) // it checks the digest
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) has(want bool, refs ...image.Reference) {
	s.T.Helper()
	for _, ref := range refs {
		there, err := s.images.Has(s.T.Context(), ref)
		s.check(err)
		if there != want {
			s.T.Errorf("that %s is there is %v", ref, there)
		}
		if err := s.pull(ref); (err == nil) != want {
			s.T.Errorf("pulling %s: %v", ref, err)
		}
	}
}

// code is the repository of the workspace's code.
func (s *server) code() string { return service.Repositories + artifact.Unique(s.row()) + "/code" }

// size is the bytes in the registry's folder.
func (s *server) size() (n int64) {
	s.T.Helper()
	s.check(filepath.WalkDir(s.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		n += info.Size()
		return err
	}))
	return n
}

// What a cluster runs, or is about to run, can be pulled years later, when nodes are replaced. What nobody runs goes
// after its time, and its layers with it.
func TestImages(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	large := strings.Repeat("x", 1<<20)
	environment, code := s.push(image.Environments, "environment"), s.push(s.code(), "code")
	next, oldEnvironment, oldCode := s.push(s.code(), "next"), s.push(image.Environments, "old environment"), s.push(s.code(), "old"+large)
	front := s.push("berth/azureml-fe", "front end")
	s.deploy("svc", "LocalUpload/c/score.py", environment, code, next)
	s.Advance(7*day - time.Minute)
	s.pass()
	s.has(true, environment, code, next, oldEnvironment, oldCode, front)
	s.Advance(2 * time.Minute)
	before := s.size()
	s.pass()
	s.has(true, environment, code, next, oldEnvironment, front)
	s.has(false, oldCode)
	if freed := before - s.size(); freed < 1<<20 {
		t.Errorf("the registry is %d bytes smaller; a layer of %d was to go", freed, len(large))
	}
	s.Advance(21 * day)
	s.pass()
	s.has(true, environment, code, next, front)
	s.has(false, oldEnvironment)
	s.Advance(1000 * day)
	s.pass()
	s.has(true, environment, code, next, front)

	again := s.push(s.code(), "old"+large) // what was removed can be made again
	if again != oldCode {
		t.Errorf("made again it is %s, and was %s", again, oldCode)
	}
	s.has(true, again)
	s.remove("services", "svc")
	s.pass()
	s.has(false, environment, code, next)
	s.has(true, front)
}

// An image that a deployment found before it was removed is used anew: it stays for its whole time.
func TestImageFoundAgain(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	found, other := s.push(s.code(), "found"), s.push(s.code(), "other")
	old := time.Now().Add(-30 * day)
	s.check(filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	}))
	if again := s.push(s.code(), "found"); again != found {
		t.Fatalf("%s is not %s", again, found)
	}
	s.pass()
	s.has(true, found)
	s.has(false, other)
}

// With a workspace go the images of its code and models at once; a workspace of the same name does not get them back,
// and one that was made meanwhile loses none.
func TestImagesOfWorkspaceGone(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	repo := s.code()
	code, environment := s.push(repo, "code"), s.push(image.Environments, "environment")
	s.deploy("svc", "LocalUpload/c/score.py", environment, code)
	row := s.row()
	s.Advance(time.Minute)
	s.update(func(tx store.Tx) error {
		return errors.Join(tx.Remove(s.Workspace.Child("services", "svc").Key()), tx.Remove(row.Key))
	})
	s.pass()
	s.has(true, environment) // it is no workspace's
	s.has(false, code)
	if _, err := os.Stat(filepath.Join(s.dir, "docker/registry/v2/repositories", filepath.Dir(repo))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the workspace's folder is still in the registry: %v", err)
	}
	// It is made again between the look at the store and that at the registry.
	row.Created.At = s.Now()
	s.collector.Images = between{s.registry, func() {
		s.update(func(tx store.Tx) error { return tx.Create(row) })
		if s.code() == repo {
			t.Error("the new workspace has the repository of the old one")
		}
		s.Advance(time.Since(s.Now())) // what is pushed has the machine's time
		code = s.push(s.code(), "code")
	}}
	s.Advance(time.Since(s.Now()))
	s.pass()
	s.has(true, code)
}

// between does something before images are looked at.
type between struct {
	*registry.Registry
	do func()
}

func (b between) Collect(ctx context.Context, before time.Time, keep func(repo, digest string, stored time.Time) bool) (registry.Removed, error) {
	b.do()
	return b.Registry.Collect(ctx, before, keep)
}

// A row that cannot be read may need anything: nothing is removed.
func TestUnreadableRow(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	code := s.push(s.code(), "code")
	s.upload("LocalUpload/x/f")
	s.deploy("svc", "LocalUpload/c/score.py", code)
	s.update(func(tx store.Tx) error {
		row, err := tx.Resource(s.Workspace.Child("services", "svc").Key())
		if err != nil {
			return err
		}
		row.Conditions = []byte(`{"data":{"good":1}}`)
		return tx.PutStatus(row)
	})
	s.Advance(100 * day)
	if err := s.collector.Pass(t.Context()); err == nil || !strings.Contains(err.Error(), "services/svc") {
		t.Errorf("the pass ended in %v", err)
	}
	s.has(true, code)
	s.left("azureml/LocalUpload/x/f")
}

// An image that is pushed, or found, during a collection is whole when that has ended, whatever was removed meanwhile: its
// layers may have been another image's until then.
func TestPushDuringCollection(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	const images = 12
	for range 2 {
		for i := range images {
			s.push(s.code(), fmt.Sprint(i))
		}
		old := time.Now().Add(-30 * day)
		s.check(filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(path, old, old))
		}))
		done := make(chan error)
		go func() {
			_, err := s.registry.Collect(t.Context(), old, func(_, _ string, stored time.Time) bool { return stored.After(old.Add(day)) })
			done <- err
		}()
		var refs []image.Reference
		for i := range images {
			refs = append(refs, s.push(s.code(), fmt.Sprint(i)))
		}
		s.check(<-done)
		s.has(true, refs...)
	}
}

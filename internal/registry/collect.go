package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// repositories is where the library keeps what repositories have.
const repositories = "/docker/registry/v2/repositories"

// Removed says what a collection removed.
type Removed struct {
	Images int
	Bytes  int64 // by which the registry's folder got smaller
}

// Collect removes every image for which keep says no, the blobs that only such images had, and uploads that were given
// up before a time. stored is when the image was pushed last; image.Registry pushes an image again whenever somebody asks
// for it, so it is when it was used last, too. Pulls go on meanwhile; storing a manifest waits, and is refused where its
// blobs went: whoever was about to use the image makes it again. It may be interrupted and repeated.
func (r *Registry) Collect(ctx context.Context, before time.Time, keep func(repo, digest string, stored time.Time) bool) (Removed, error) {
	r.naming.Lock()
	defer r.naming.Unlock()
	out := Removed{}
	all, ok := r.images.(distribution.RepositoryEnumerator)
	if !ok {
		return out, errors.New("the registry's storage cannot list its repositories")
	}
	var repos []string // listed first: what is removed under an enumeration upsets it
	err := all.Enumerate(ctx, func(repo string) error {
		repos = append(repos, repo)
		return nil
	})
	if absent(err) {
		return out, nil // nothing was ever pushed
	}
	if err != nil {
		return out, fmt.Errorf("listing the registry's repositories: %w", err)
	}
	size := int64(0)
	for _, repo := range repos {
		gone, kept, err := r.unwanted(ctx, repo, keep)
		if err != nil {
			return out, fmt.Errorf("looking for images to remove from %s: %w", repo, err)
		}
		if len(gone) == 0 && kept > 0 {
			continue
		}
		if out.Images == 0 {
			if size, err = r.size(); err != nil {
				return out, err
			}
		}
		r.swept = false
		if err := r.forget(ctx, repo, gone); err != nil {
			return out, fmt.Errorf("removing images from %s: %w", repo, err)
		}
		out.Images += len(gone)
		if kept == 0 {
			if err := r.drop(ctx, repo); err != nil {
				return out, fmt.Errorf("removing the empty repository %s: %w", repo, err)
			}
		}
	}
	// Blobs without an image come of images that were removed, perhaps by a process that was killed at it, and of pushes
	// that broke off. Looking for them reads every manifest, so it is not done for the sake of the latter alone.
	if !r.swept {
		if err := storage.MarkAndSweep(ctx, r.files, r.images, storage.GCOpts{Quiet: true}); err != nil {
			return out, fmt.Errorf("removing blobs that no image has: %w", err)
		}
		r.swept = true
	}
	_, errs := storage.PurgeUploads(ctx, r.files, before, true)
	if err := errors.Join(errs...); err != nil {
		return out, fmt.Errorf("removing uploads that were given up: %w", err)
	}
	if out.Images > 0 {
		left, err := r.size()
		if err != nil {
			return out, err
		}
		out.Bytes = max(0, size-left)
	}
	return out, nil
}

// size is how many bytes are in the registry's folder.
func (r *Registry) size() (n int64, err error) {
	err = filepath.WalkDir(r.dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // uploads come and go
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	return n, err
}

// drop removes a repository without images, unless something is being pushed to it. A push that begins at this moment
// fails, and is repeated as after any failure.
func (r *Registry) drop(ctx context.Context, repo string) error {
	at := path.Join(repositories, repo)
	if pushes, err := r.files.List(ctx, path.Join(at, "_uploads")); err != nil && !absent(err) || len(pushes) > 0 {
		return err
	}
	if err := r.files.Delete(ctx, at); err != nil && !absent(err) {
		return err
	}
	_ = os.Remove(filepath.Join(r.dir, filepath.FromSlash(path.Dir(at)))) // the workspace's, where nothing else is in it
	return nil
}

// unwanted are a repository's images that are not to be kept, and the number of the others.
func (r *Registry) unwanted(ctx context.Context, repo string, keep func(repo, digest string, stored time.Time) bool) (gone []digest.Digest, kept int, err error) {
	rep, err := r.repository(ctx, repo)
	if err != nil {
		return nil, 0, err
	}
	manifests, err := rep.Manifests(ctx)
	if err != nil {
		return nil, 0, err
	}
	all, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return nil, 0, errors.New("the registry's storage cannot list its images")
	}
	err = all.Enumerate(ctx, func(d digest.Digest) error {
		link, err := r.files.Stat(ctx, path.Join(repositories, repo, "_manifests/revisions", d.Algorithm().String(), d.Encoded(), "link"))
		if err != nil {
			return err
		}
		if !keep(repo, d.String(), link.ModTime()) {
			gone = append(gone, d)
		} else {
			kept++
		}
		return nil
	})
	if absent(err) { // uploads only
		err = nil
	}
	return gone, kept, err
}

func (r *Registry) repository(ctx context.Context, repo string) (distribution.Repository, error) {
	named, err := reference.WithName(repo)
	if err != nil {
		return nil, err
	}
	return r.images.Repository(ctx, named)
}

// forget removes images of a repository, with their tags, but not yet their blobs.
func (r *Registry) forget(ctx context.Context, repo string, gone []digest.Digest) error {
	rep, err := r.repository(ctx, repo)
	if err != nil {
		return err
	}
	names, err := rep.Tags(ctx).All(ctx)
	if err != nil && !absent(err) {
		return err
	}
	tags := map[digest.Digest][]string{}
	for _, name := range names {
		d, err := rep.Tags(ctx).Get(ctx, name)
		if err == nil {
			tags[d.Digest] = append(tags[d.Digest], name)
		} else if unknown := (distribution.ErrTagUnknown{}); !absent(err) && !errors.As(err, &unknown) {
			return err
		}
	}
	vacuum := storage.NewVacuum(ctx, r.files)
	for _, d := range gone {
		for _, tag := range tags[d] {
			if err := rep.Tags(ctx).Untag(ctx, tag); err != nil && !absent(err) {
				return err
			}
		}
		if err := vacuum.RemoveManifest(repo, d, nil); err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

func absent(err error) bool {
	var path driver.PathNotFoundError
	var repo distribution.ErrRepositoryUnknown
	return errors.As(err, &path) || errors.As(err, &repo)
}

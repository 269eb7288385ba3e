package registry

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// repositories is where the library keeps what repositories have.
const repositories = "/docker/registry/v2/repositories"

// Collect removes every image for which keep says no, the blobs that only such images had, and
// uploads that were given up. Images that were pushed, or pushed again, after before are kept: whoever
// pushed them may not have noted it down yet. Pulls go on meanwhile; storing a manifest waits.
// It may be interrupted and repeated.
func (r *Registry) Collect(ctx context.Context, before time.Time, keep func(repo, digest string) bool) error {
	r.naming.Lock()
	defer r.naming.Unlock()
	all, ok := r.images.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.New("the registry's storage cannot list its repositories")
	}
	err := all.Enumerate(ctx, func(repo string) error { return r.forget(ctx, repo, before, keep) })
	if absent(err) {
		return nil // nothing was ever pushed
	}
	if err != nil {
		return fmt.Errorf("removing images: %w", err)
	}
	if err := storage.MarkAndSweep(ctx, r.files, r.images, storage.GCOpts{Quiet: true}); err != nil {
		return fmt.Errorf("removing blobs that no image has: %w", err)
	}
	_, errs := storage.PurgeUploads(ctx, r.files, before, true)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing uploads that were given up: %w", err)
	}
	return nil
}

// forget removes a repository's images, with their tags, but not yet their blobs.
func (r *Registry) forget(ctx context.Context, repo string, before time.Time, keep func(repo, digest string) bool) error {
	named, err := reference.WithName(repo)
	if err != nil {
		return err
	}
	rep, err := r.images.Repository(ctx, named)
	if err != nil {
		return err
	}
	manifests, err := rep.Manifests(ctx)
	if err != nil {
		return err
	}
	all, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the registry's storage cannot list its images")
	}
	var gone []digest.Digest
	err = all.Enumerate(ctx, func(d digest.Digest) error {
		link, err := r.files.Stat(ctx, path.Join(repositories, repo, "_manifests/revisions", d.Algorithm().String(), d.Encoded(), "link"))
		if err != nil {
			return err
		}
		if link.ModTime().Before(before) && !keep(repo, d.String()) {
			gone = append(gone, d)
		}
		return nil
	})
	if err != nil && !absent(err) { // absent: uploads only
		return err
	}
	vacuum := storage.NewVacuum(ctx, r.files)
	for _, d := range gone {
		tags, err := rep.Tags(ctx).Lookup(ctx, v1.Descriptor{Digest: d})
		if err != nil && !absent(err) {
			return err
		}
		for _, tag := range tags {
			if err := rep.Tags(ctx).Untag(ctx, tag); err != nil {
				return err
			}
		}
		if err := vacuum.RemoveManifest(repo, d, nil); err != nil {
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

package model

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

// Content is a model's files, as they go below azureml-models/{name}/{version} in a container.
type Content struct {
	Model     Model
	Key       string // names the content: another upload under the same name has another
	workspace *store.Resource
	asset     *Asset
}

// Load finds a model's content. Errors: *armerr.Error with ModelNotFound.
func (s *Service) Load(tx store.ReadTx, workspace armid.ID, id string) (*Content, error) {
	ws, err := tx.Resource(workspace.Key())
	if err != nil {
		return nil, err
	}
	row, err := s.row(tx, workspace, Models, id)
	if err != nil {
		return nil, err
	}
	doc, err := resource.ReadDocument[Model](row)
	if err != nil {
		return nil, err
	}
	assetID := strings.TrimPrefix(doc.Properties.URL, "aml://asset/")
	assetRow, err := s.row(tx, workspace, Assets, assetID)
	if err != nil {
		return nil, err
	}
	asset, err := resource.ReadDocument[Asset](assetRow)
	if err != nil {
		return nil, err
	}
	return &Content{Model: doc.Properties, Key: assetRow.Key, workspace: ws, asset: &asset.Properties}, nil
}

// Files lists the content's files. The base name of what was registered stays: a folder's files are below
// its name. Errors: a file that is missing, by name.
func (s *Service) Files(ctx context.Context, c *Content) ([]image.File, error) {
	var out []image.File
	for _, part := range c.asset.Artifacts {
		prefix := artifact.ID(part.Prefix)
		if part.ID != "" {
			prefix = artifact.ID(part.ID)
		}
		found, err := s.Artifacts.Under(ctx, c.workspace, prefix)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("the model '%s:%d' has no files: nothing was uploaded to %s, or it was deleted. Register the model again", c.Model.Name, c.Model.Version, prefix)
		}
		strip := path.Dir(strings.TrimSuffix(string(prefix), "/")) + "/"
		for _, f := range found {
			out = append(out, image.File{
				Path: strings.TrimPrefix(string(f.ID), strip), Size: f.Size,
				Open: func(ctx context.Context) (io.ReadCloser, error) { return s.Artifacts.Open(ctx, c.workspace, f.ID) },
			})
		}
	}
	if c.Model.Unpack != nil && *c.Model.Unpack && len(out) == 1 {
		return Unpack(ctx, out[0])
	}
	return out, nil
}

// Unpack lists the files in a tar file, compressed or not. Each is read from the archive when
// it is opened, so nothing is kept.
func Unpack(ctx context.Context, archive image.File) ([]image.File, error) {
	var out []image.File
	err := walk(ctx, archive, func(h *tar.Header, _ io.Reader) (bool, error) {
		name := path.Clean("/" + h.Name)[1:]
		if h.Typeflag != tar.TypeReg || name == "" {
			return false, nil
		}
		entry := h.Name
		out = append(out, image.File{Path: name, Size: h.Size, Mode: h.Mode&0o777 | 0o444, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() {
				found := false
				err := walk(ctx, archive, func(h *tar.Header, content io.Reader) (bool, error) {
					if h.Name != entry || h.Typeflag != tar.TypeReg {
						return false, nil
					}
					found = true
					_, err := io.Copy(w, content)
					return true, err
				})
				if err == nil && !found {
					err = fmt.Errorf("%s is no longer in the archive", entry)
				}
				_ = w.CloseWithError(err) // never fails
			}()
			return r, nil
		}})
		return false, nil
	})
	return out, err
}

// walk calls fn for each entry until it says that it has enough.
func walk(ctx context.Context, archive image.File, fn func(*tar.Header, io.Reader) (enough bool, err error)) (err error) {
	src, err := archive.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	var content io.Reader = src
	if name := strings.ToLower(archive.Path); strings.HasSuffix(name, "gz") {
		z, err := gzip.NewReader(src)
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", archive.Path, err)
		}
		content = z
	}
	t := tar.NewReader(content)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", archive.Path, err)
		}
		if enough, err := fn(h, t); enough || err != nil {
			return err
		}
	}
}

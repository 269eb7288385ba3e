package model

import (
	"context"
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
	assetID := strings.TrimPrefix(doc.Properties.URL, assetURL)
	assetRow, err := s.row(tx, workspace, Assets, assetID)
	if err != nil {
		return nil, err
	}
	asset, err := resource.ReadDocument[Asset](assetRow)
	if err != nil {
		return nil, err
	}
	return &Content{Model: doc.Properties, workspace: ws, asset: &asset.Properties}, nil
}

// Files lists the content's files. The base name of what was registered stays: a folder's files are below
// its name. key says what they are: other files, or another upload in their place, have another. Errors:
// *image.UserError when files are missing, by name, or cannot be unpacked; others may pass.
func (s *Service) Files(ctx context.Context, c *Content) (files []image.File, key string, err error) {
	unpack := c.Model.Unpack != nil && *c.Model.Unpack
	said := []string{fmt.Sprint(unpack)}
	for _, part := range c.asset.Artifacts {
		prefix := artifact.ID(part.Prefix)
		if part.ID != "" {
			prefix = artifact.ID(part.ID)
		}
		found, err := s.Artifacts.Under(ctx, c.workspace, prefix)
		if err != nil {
			return nil, "", err
		}
		if len(found) == 0 {
			return nil, "", &image.UserError{Code: "ModelNotFound", Message: fmt.Sprintf("The model '%s:%d' has no files: nothing was uploaded to %s, or it was deleted. Register the model again.", c.Model.Name, c.Model.Version, prefix)}
		}
		strip := path.Dir(strings.TrimSuffix(string(prefix), "/")) + "/"
		for _, f := range found {
			sum, err := s.Artifacts.Sum(ctx, c.workspace, f)
			if err != nil {
				return nil, "", fmt.Errorf("looking for %s: %w", f.ID, err)
			}
			name := strings.TrimPrefix(string(f.ID), strip)
			said = append(said, fmt.Sprintf("%s %q %s", f.ID, name, sum))
			files = append(files, image.File{
				Path: name, Size: f.Size,
				Open: func(ctx context.Context) (io.ReadCloser, error) { return s.Artifacts.Open(ctx, c.workspace, f.ID, sum) },
			})
		}
	}
	if unpack && len(files) == 1 {
		files, err = s.Unpack(ctx, files[0])
	}
	return files, strings.Join(said, "\n"), err
}

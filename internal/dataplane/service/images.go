package service

import (
	"net/http"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/dataplane"
)

// registerImages adds the handlers of what there was before environments: images that are registered like models,
// packages of them, and profiles. There are none here, so lists of them are empty, and making one is refused by name.
func registerImages(srv *dataplane.Server) {
	for noun, instead := range map[string]string{
		"images":   "Berth registers no images, so Image.create, Webservice.deploy_from_model and deploy_from_image have nothing to make or deploy. Give an InferenceConfig with an Environment to Model.deploy; the image is made on the way.",
		"packages": "Berth makes no packages of models (Model.package). Model.deploy needs none; Environment.build makes the image of the environment alone.",
		"profiles": "Berth does not profile models (Model.profile). Deploy with autoscaling, and read the front end's metrics: docs/scoring.md.",
	} {
		refuse := func(*dataplane.Request) (*dataplane.Reply, error) {
			return nil, armerr.New(armerr.CodeNotSupported, "%s", instead)
		}
		srv.Handle("POST", dataplane.ModelManagement, "/"+noun, noun, dataplane.Write, refuse)
		srv.Handle("GET", dataplane.ModelManagement, "/"+noun, noun, dataplane.Read, func(r *dataplane.Request) (*dataplane.Reply, error) {
			return dataplane.OK(r.Page("/"+noun, []any{}, ""))
		})
		srv.Handle("GET", dataplane.ModelManagement, "/"+noun+"/{id}", noun, dataplane.Read, func(r *dataplane.Request) (*dataplane.Reply, error) {
			e := armerr.New(armerr.CodeResourceNotFound, "There is no '%s' among the %s of the workspace '%s'. %s", r.PathValue("id"), noun, r.Workspace.Name(), instead)
			e.Status = http.StatusNotFound
			return nil, e
		})
	}
}

package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/serving"
	"github.com/berthdev/berth/internal/store"
)

// made are the images of a version, and how its container starts.
type made struct {
	Image   image.Reference
	Mounts  []serving.Mount
	Env     map[string]string
	Command []string
}

// make makes everything that a version's pods run.
func (s *Service) make(ctx context.Context, workspace armid.ID, service string, v *Version, known access, say func(string)) (made, error) {
	req := v.Image
	var ws *store.Resource
	contents := make([]*model.Content, len(req.ModelIDs))
	err := s.Manager.Store.View(ctx, func(tx store.ReadTx) (err error) {
		if ws, err = tx.Resource(workspace.Key()); err != nil {
			return err
		}
		for i, id := range req.ModelIDs {
			if contents[i], err = s.Models.Load(tx, workspace, id); err != nil {
				return err
			}
		}
		return nil
	})
	var refused *armerr.Error
	if errors.As(err, &refused) {
		return made{}, &image.UserError{Code: refused.Code, Message: refused.Message}
	}
	if err != nil {
		return made{}, err
	}
	definition, code := req.Environment, []image.File(nil)
	codeKey, script := "", ""
	if len(req.Assets) == 0 {
		var text string
		definition, text = generated(contents[0])
		script, codeKey = generatedScript, "generated:"+text
		code = []image.File{{Path: script, Size: int64(len(text)), Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(text)), nil
		}}}
	} else if code, codeKey, err = s.code(ctx, ws, req); err != nil {
		return made{}, err
	}
	var env struct {
		EnvironmentVariables map[string]string `json:"environmentVariables"`
	}
	if len(definition) == 0 || json.Unmarshal(definition, &env) != nil {
		return made{}, &image.UserError{Code: image.EnvironmentNotSupported, Message: "The request names no environment. Give InferenceConfig an environment."}
	}
	if script == "" {
		script = env.EnvironmentVariables["AZUREML_ENTRY_SCRIPT"]
	}
	if script == "" {
		return made{}, &image.UserError{Code: image.EnvironmentNotSupported, Message: "The environment has no AZUREML_ENTRY_SCRIPT, which azureml-core 1.6 and later set from InferenceConfig.entry_script."}
	}
	if definition, err = s.withPassword(ctx, workspace, definition, known); err != nil {
		return made{}, err
	}
	say("Registering the environment.")
	m := made{Env: env.EnvironmentVariables}
	if m.Image, err = s.Images.Environment(ctx, definition, say); err != nil {
		return made{}, err
	}
	if m.Mounts, err = s.mounts(ctx, ws, req, contents, code, codeKey, say); err != nil {
		return made{}, err
	}
	if m.Env == nil {
		m.Env = map[string]string{}
	}
	m.Env["AML_APP_ROOT"] = serving.AppRoot
	m.Env["AZUREML_MODEL_DIR"] = modelDir(contents)
	m.Env["SERVICE_NAME"] = service
	m.Env["WORKSPACE_NAME"] = workspace.Name()
	m.Env["SERVICE_PATH_PREFIX"] = "api/v1/service/" + service
	m.Env["SCORING_TIMEOUT_MS"] = fmt.Sprint(*v.ScoringTimeoutMS)
	delete(m.Env, "AZUREML_ENTRY_SCRIPT") // the command names it, with its folder
	m.Command = image.ServerCommand(path.Join(serving.AppRoot, script))
	return m, nil
}

// modelDir is AZUREML_MODEL_DIR: one model's own folder, or the one that holds all of them.
func modelDir(contents []*model.Content) string {
	if len(contents) == 1 {
		return modelPath(contents[0])
	}
	return serving.ModelsRoot
}

func modelPath(c *model.Content) string {
	return path.Join(serving.ModelsRoot, c.Model.Name, fmt.Sprint(c.Model.Version))
}

// mounts makes the images of the code and of each model.
func (s *Service) mounts(ctx context.Context, ws *store.Resource, req *ImageRequest, contents []*model.Content, code []image.File, codeKey string, say func(string)) ([]serving.Mount, error) {
	repo := Repositories + artifact.Unique(ws)
	for _, c := range contents { // models are mounted into the code's folder, which nobody can write to then
		dir := strings.TrimPrefix(modelPath(c), serving.AppRoot+"/") + "/"
		code, codeKey = append(code, image.File{Path: dir}), codeKey+dir+"\n"
	}
	ref, err := s.Registry.Files(ctx, repo+"/code", codeKey, code)
	if lost(err) {
		return nil, codeLost(err)
	}
	if err != nil {
		return nil, fmt.Errorf("packing the code: %w", err)
	}
	out := []serving.Mount{{Path: serving.AppRoot, Image: string(ref)}}
	for i, c := range contents {
		say("Packing the model " + req.ModelIDs[i] + ".")
		files, key, err := s.Models.Files(ctx, c)
		var ref image.Reference
		if err == nil {
			ref, err = s.Registry.Files(ctx, repo+"/models", key, files)
		}
		if lost(err) {
			return nil, &image.UserError{Code: "ModelNotFound", Message: fmt.Sprintf("The model '%s' cannot be packed: %v. It was deleted, damaged or replaced after it was uploaded. Register the model again.", req.ModelIDs[i], err)}
		}
		if err != nil {
			return nil, fmt.Errorf("packing the model %s: %w", req.ModelIDs[i], err)
		}
		out = append(out, serving.Mount{Path: modelPath(c), Image: string(ref)})
	}
	return out, nil
}

func codeLost(err error) error {
	return &image.UserError{Code: "AssetNotFound", Message: fmt.Sprintf("The code of the deployment cannot be packed: %v. It was deleted, damaged or replaced after it was uploaded. Deploy again.", err)}
}

// lost reports whether a file is not as it was uploaded, which trying again does not change.
func lost(err error) bool {
	return errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrChecksum)
}

const artifactURL = "aml://artifact/"

// code lists the files of the entry script and its folder. The driver that azureml-core generates is
// left out: the server calls the script itself.
func (s *Service) code(ctx context.Context, ws *store.Resource, req *ImageRequest) (files []image.File, key string, err error) {
	for _, a := range req.Assets {
		id, ok := strings.CutPrefix(a.URL, artifactURL)
		if !ok {
			return nil, "", &image.UserError{Code: "AssetNotSupported", Message: fmt.Sprintf("The asset %q is at %q; Berth takes artifacts (aml://artifact/…), as azureml-core uploads them.", a.ID, a.URL)}
		}
		if a.ID == req.DriverProgram && a.ID != "" {
			continue
		}
		found, err := s.Artifacts.Under(ctx, ws, artifact.ID(id))
		if err != nil {
			return nil, "", err
		}
		if len(found) != 1 {
			return nil, "", &image.UserError{Code: "AssetNotFound", Message: fmt.Sprintf("The file %q of the deployment was never uploaded to %s. Deploy again.", a.ID, id)}
		}
		unpack := a.Unpack != nil && *a.Unpack
		sum, err := s.Artifacts.Sum(ctx, ws, found[0]) // another upload to the same path is other code
		if err != nil {
			return nil, "", err
		}
		f := image.File{Path: path.Base(id), Size: found[0].Size, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return s.Artifacts.Open(ctx, ws, found[0].ID, sum)
		}}
		key += fmt.Sprintf("%s %t %s\n", a.URL, unpack, sum)
		if !unpack {
			files = append(files, f)
			continue
		}
		inside, err := s.Models.Unpack(ctx, f)
		if lost(err) {
			return nil, "", codeLost(err)
		}
		if err != nil {
			return nil, "", err
		}
		files = append(files, inside...)
	}
	return files, key, nil
}

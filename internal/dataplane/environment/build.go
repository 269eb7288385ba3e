package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

const (
	buildLimit = 15 * time.Minute
	passwordAt = "properties.registryPassword" // among a row's secrets
)

// builds are the images that are being made in this process, by row. What a crash interrupts begins again when
// somebody asks how it goes; what was made before is found in the registry.
type builds struct {
	mu    sync.Mutex
	byKey map[string]*build
}

// build makes one image.
type build struct {
	mu    sync.Mutex
	lines []string
	done  bool
	err   error
}

func (b *build) look() (lines []string, done bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lines, b.done, b.err
}

// build begins to make a version's image, and says where to ask how it goes.
func (s *Service) build(r *dataplane.Request) (*dataplane.Reply, error) {
	row, env, err := s.read(r)
	if err != nil {
		return nil, err
	}
	note := ""
	if compute := r.PathValue("compute"); compute != "" {
		note = fmt.Sprintf("Berth makes images itself; the compute %s is not used.", compute)
	}
	if err := s.begin(r, row, env, note, true); err != nil {
		return nil, err
	}
	at := "https://" + r.Host + dataplane.EnvironmentsV2 + r.Workspace.String() + "/environments/" + env.Name + "/versions/" + env.Version + "/image"
	return &dataplane.Reply{Status: http.StatusAccepted, Header: http.Header{"Location": {at}}, Body: map[string]any{"location": at}}, nil
}

// begin starts a build unless one is under way. again starts one even where one has ended.
func (s *Service) begin(r *dataplane.Request, row *store.Resource, env *Environment, note string, again bool) error {
	var password string
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		password, err = passwordOf(tx, row.Key)
		return err
	})
	if err != nil {
		return err
	}
	definition, err := env.definition(password)
	if err != nil {
		return err
	}
	s.builds.mu.Lock()
	defer s.builds.mu.Unlock()
	if s.builds.byKey == nil {
		s.builds.byKey = map[string]*build{}
	}
	if b := s.builds.byKey[row.Key]; b != nil {
		if _, done, _ := b.look(); !done || !again {
			return nil
		}
	}
	b := &build{}
	s.builds.byKey[row.Key] = b
	workspace := *r.Row
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), buildLimit)
		defer cancel()
		say := func(line string) { s.say(ctx, &workspace, row, b, line) }
		if note != "" {
			say(note)
		}
		err := s.make(ctx, row.Key, definition, say)
		if err != nil {
			s.Logger.Info("making the image of an environment failed", "environment", row.ID, "error", err)
			say("It failed: " + reason(err))
		} else {
			say("The image is there.")
		}
		b.mu.Lock()
		b.done, b.err = true, err
		b.mu.Unlock()
	}()
	return nil
}

// passwordOf reads the password that a row's version was registered with, "" for none.
func passwordOf(tx store.ReadTx, key string) (string, error) {
	raw, err := tx.Secret(key, "document")
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	var secrets map[string]string
	if err == nil && json.Unmarshal(raw, &secrets) != nil {
		err = errors.New("the secrets of an environment cannot be read") // without the cause: it may quote them
	}
	return secrets[passwordAt], err
}

// Password finds the password with which a version of an environment was registered, for deployments that name it:
// clients cannot read it to send it along. It is "" where the version is not registered, or for another registry
// (image.BaseRegistry) or user than these.
func Password(tx store.ReadTx, workspace armid.ID, name, version, host, username string) (string, error) {
	row, err := tx.Resource(rowID(workspace, name, version).Key())
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	doc, err := resource.ReadDocument[Environment](row)
	if err != nil {
		return "", err
	}
	var docker struct {
		BaseImage         string
		BaseImageRegistry struct{ Address, Username string }
	}
	if len(doc.Properties.Docker) == 0 || json.Unmarshal(doc.Properties.Docker, &docker) != nil {
		return "", nil
	}
	if r := docker.BaseImageRegistry; image.BaseRegistry(docker.BaseImage, r.Address) != host || r.Username != username {
		return "", nil
	}
	return passwordOf(tx, row.Key)
}

// make makes the image and notes it with the version.
func (s *Service) make(ctx context.Context, key string, definition json.RawMessage, log func(string)) error {
	ref, err := s.Images.Environment(ctx, definition, log)
	if err != nil {
		return err
	}
	return s.Manager.Store.Update(ctx, func(tx store.Tx) error {
		row, err := tx.Resource(key)
		if errors.Is(err, store.ErrNotFound) { // the workspace was deleted meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		if row.Status, err = json.Marshal(map[string]any{"properties": map[string]any{"image": string(ref)}}); err != nil {
			return err
		}
		return tx.PutStatus(row)
	})
}

// reason is an error as the caller may see it.
func reason(err error) string {
	var user *image.UserError
	var registry *image.RegistryError
	switch {
	case errors.As(err, &user):
		return user.Message
	case errors.As(err, &registry):
		return registry.Message
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it took longer than %v.", buildLimit)
	}
	return "Berth met an error that is not the definition's fault. Build again; its log has the details."
}

// LogPath is the path, among Berth's own logs, of the log of a version's last build.
func LogPath(row *store.Resource) string {
	return "environments/" + strings.ReplaceAll(armid.MustParse(row.ID).Name(), ":", "/") + "/build.log"
}

// say adds a line to a build's log, which clients read by a signed URL while it grows.
func (s *Service) say(ctx context.Context, workspace, row *store.Resource, b *build, line string) {
	b.mu.Lock()
	b.lines = append(b.lines, line)
	text := strings.Join(b.lines, "\n") + "\n"
	b.mu.Unlock()
	if err := s.Artifacts.WriteLog(ctx, workspace, LogPath(row), text); err != nil {
		s.Logger.Error("writing the log of a build", "environment", row.ID, "error", err)
	}
}

// status says how a build goes.
func (s *Service) status(r *dataplane.Request) (*dataplane.Reply, error) {
	row, env, err := s.read(r)
	if err != nil {
		return nil, err
	}
	s.builds.mu.Lock()
	b := s.builds.byKey[row.Key]
	s.builds.mu.Unlock()
	if b == nil && env.Image == "" { // it was under way when Berth ended
		if err := s.begin(r, row, env, "Beginning again, after Berth was started anew.", false); err != nil {
			return nil, err
		}
	}
	out := map[string]any{"status": "Running", "environmentName": env.Name, "environmentVersion": env.Version, "logUrl": nil, "error": nil}
	if b == nil {
		if env.Image != "" {
			out["status"] = "Succeeded"
		}
		return dataplane.OK(out)
	}
	lines, done, err := b.look()
	if len(lines) > 0 {
		out["logUrl"] = s.Artifacts.LogURL(r.Row, LogPath(row))
	}
	switch {
	case done && err == nil:
		out["status"] = "Succeeded"
	case done:
		code := "InternalServerError"
		var user *image.UserError
		var registry *image.RegistryError
		switch {
		case errors.As(err, &user):
			code = user.Code
		case errors.As(err, &registry):
			code = armerr.CodeRegistryNotUsable
		}
		out["status"], out["error"] = "Failed", map[string]string{"code": code, "message": reason(err)}
	}
	return dataplane.OK(out)
}

package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

const (
	// BuildType is the type of the rows that say that somebody asked for a version's image, and what came of it. There is one
	// below a version's row from the first time on. It is a resource of the kernel, so that what was asked for is made also
	// if Berth ends meanwhile, and goes with its workspace.
	BuildType = Type + "/builds"

	buildName  = "image"
	buildPoll  = time.Second                   // while it is made, for the log; its end wakes
	passwordAt = "properties.registryPassword" // among a row's secrets
	// buildDeadline bounds all attempts and the wait for a turn. Each attempt has a limit of its own, so that it only
	// has to be longer than Berth may be down.
	buildDeadline = 7 * 24 * time.Hour
)

// Build is the properties of a build's row.
type Build struct {
	ProvisioningState string `json:"provisioningState,omitempty" arm:"readonly"`
	Asked             int    `json:"asked,omitempty" arm:"required"`     // how often
	Compute           string `json:"compute,omitempty" arm:"maxlen=255"` // where the client wants it made

	// Image is what was made last.
	Image string `json:"image,omitempty" arm:"readonly"`
}

// logged is the reconciler's memory: the log of the operation that it works on, or worked on last.
type logged struct {
	Operation string   `json:"operation,omitempty"`
	Lines     []string `json:"lines,omitempty"`
}

func (s *Service) buildType() *resource.Type {
	return resource.New(resource.Definition[Build]{
		Type: BuildType, Summary: "The making of an environment's image.", Versions: versions, DataPlane: true, Deadline: buildDeadline, Reconcile: s.reconcile,
	})
}

func buildID(row *store.Resource) armid.ID { return armid.MustParse(row.ID).Child("builds", buildName) }

// built is the build of a version's row, nil if nobody asked for one.
func built(tx store.ReadTx, row *store.Resource) (*store.Resource, *Build, error) {
	b, err := tx.Resource(buildID(row).Key())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	doc, err := resource.ReadDocument[Build](b)
	if err != nil {
		return nil, nil, err
	}
	return b, &doc.Properties, nil
}

// build asks for a version's image, and says where to ask how it goes. Asking while it is made changes nothing.
func (s *Service) build(r *dataplane.Request) (*dataplane.Reply, error) {
	var env *Environment
	err := s.Manager.Store.Update(r.Context(), func(tx store.Tx) error {
		row, e, err := s.find(tx, r)
		if err != nil {
			return err
		}
		env = e
		old, was, err := built(tx, row)
		if err != nil {
			return err
		}
		wanted := Build{Asked: 1, Compute: r.PathValue("compute")}
		if old != nil {
			if old.DeletedAt == nil && !resource.Final(old.State) {
				return nil
			}
			wanted.Asked = was.Asked + 1 // which makes it another document, and so another build
		}
		return s.store(r, tx, BuildType, buildID(row), &wanted)
	})
	if err != nil {
		return nil, err
	}
	at := "https://" + r.Host + dataplane.EnvironmentsV2 + r.Workspace.String() + "/environments/" + env.Name + "/versions/" + env.Version + "/image"
	return &dataplane.Reply{Status: http.StatusAccepted, Header: http.Header{"Location": {at}}, Body: map[string]any{"location": at}}, nil
}

// status says how a build goes. It begins none.
func (s *Service) status(r *dataplane.Request) (*dataplane.Reply, error) {
	var version, row *store.Resource
	var env *Environment
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		if version, env, err = s.find(tx, r); err != nil {
			return err
		}
		row, _, err = built(tx, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	if row == nil {
		e := armerr.New(armerr.CodeResourceNotFound, "Nobody asked for an image of the version '%s' of the environment '%s'. Environment.build(ws) does.", env.Version, env.Name)
		e.Status = http.StatusNotFound
		return nil, e
	}
	record, err := resource.RecordOf(row)
	if err != nil {
		return nil, err
	}
	log, err := remember(record.Data, row.OperationID)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"status": "Running", "environmentName": env.Name, "environmentVersion": env.Version, "logUrl": nil, "error": nil}
	if len(log.Lines) > 0 {
		out["logUrl"] = s.Artifacts.LogURL(r.Row, LogPath(version))
	}
	if resource.Final(row.State) {
		out["status"] = row.State
	}
	if why := record.Error; row.State == resource.StateFailed && why != nil {
		out["error"] = map[string]string{"code": why.Code, "message": why.Message}
	}
	return dataplane.OK(out)
}

// remember reads the log of an operation, which is empty when the record is of an earlier one.
func remember(raw json.RawMessage, operation string) (logged, error) {
	var log logged
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &log); err != nil {
			return log, fmt.Errorf("the log of a build cannot be read: %w", err)
		}
	}
	if log.Operation != operation {
		log = logged{Operation: operation}
	}
	return log, nil
}

// reconcile has an image made that was asked for.
func (s *Service) reconcile(ctx context.Context, o *resource.Object[Build]) resource.Outcome {
	if o.Row.Observed == o.Row.Generation { // woken again by what it has seen
		if o.Row.State == resource.StateFailed {
			return resource.Failed(o.Record.Error, 0)
		}
		return resource.Done(0)
	}
	log, err := remember(o.Record.Data, o.Row.OperationID)
	if err != nil {
		return resource.Retry(err)
	}
	before := len(log.Lines)
	if compute := o.Spec.Properties.Compute; compute != "" && before == 0 {
		log.Lines = append(log.Lines, fmt.Sprintf("Berth makes images itself; the compute %s is not used.", compute))
	}
	// Whoever asks again, also in a workspace that was made anew under its name, begins another operation.
	b := build.Ensure(ctx, s.Builds, "environment "+o.Row.OperationID, o.Row.Key, permanent, func(ctx context.Context, say func(string)) (image.Reference, error) {
		definition, err := s.wanted(ctx, o.ID.Parent())
		if err != nil {
			return "", err
		}
		return s.Images.Environment(ctx, definition, say)
	})
	lines, done, ref, err := b.Look()
	log.hear(o, lines)
	out := resource.Waiting(buildPoll, "the image")
	switch why := refusal(err, b.Hopeless()); {
	case !done:
	case err == nil:
		o.Status.Properties.Image = string(ref)
		log.Lines = append(log.Lines, "The image is there.")
		out = resource.Done(0)
	case why != nil:
		log.Lines = append(log.Lines, "It failed: "+why.Message)
		out = resource.Failed(why, 0)
	}
	if len(log.Lines) > before {
		if err := s.writeLog(ctx, o, log.Lines); err != nil {
			s.Logger.ErrorContext(ctx, "writing the log of a build", "environment", o.ID.Parent(), "error", err)
		}
	}
	if o.Record.Data, err = json.Marshal(log); err != nil {
		return resource.Retry(err)
	}
	return out
}

// hear adds what a build says that is not in the log yet. An attempt that follows another one, also after a restart, says
// first what is in the log already.
func (l *logged) hear(o *resource.Object[Build], said []string) {
	have := len(l.Lines)
	if o.Spec.Properties.Compute != "" {
		have-- // for the line that is Berth's own
	}
	if have < len(said) {
		l.Lines = append(l.Lines, said[have:]...)
	}
}

// wanted is the definition of a version, with its password.
func (s *Service) wanted(ctx context.Context, id armid.ID) (definition json.RawMessage, err error) {
	err = s.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, err := tx.Resource(id.Key())
		if err != nil {
			return err
		}
		doc, err := resource.ReadDocument[Environment](row)
		if err != nil {
			return err
		}
		password, err := passwordOf(tx, row.Key)
		if err != nil {
			return err
		}
		definition, err = doc.Properties.definition(password)
		return err
	})
	return definition, err
}

// permanent reports whether another attempt would end in the same error.
func permanent(err error) bool {
	var user *image.UserError
	return errors.As(err, &user) || errors.Is(err, build.ErrTooLong)
}

// refusal is an error as the caller may see it, nil for one that may pass unless it is hopeless.
func refusal(err error, hopeless bool) *armerr.Error {
	var user *image.UserError
	var registry *image.RegistryError
	switch {
	case errors.As(err, &user):
		return &armerr.Error{Status: http.StatusBadRequest, Code: user.Code, Message: user.Message}
	case errors.Is(err, build.ErrTooLong):
		return armerr.New(armerr.CodeInternalServerError, "The image was not made: %v.", build.ErrTooLong)
	case !hopeless:
		return nil
	case errors.As(err, &registry):
		return armerr.New(armerr.CodeRegistryNotUsable, "%s", registry.Message)
	}
	return armerr.New(armerr.CodeInternalServerError, "Berth met an error that is not the definition's fault. Build again; its log has the details.")
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

// LogPath is the path, among Berth's own logs, of the log of a version's last build.
func LogPath(row *store.Resource) string {
	return "environments/" + strings.ReplaceAll(armid.MustParse(row.ID).Name(), ":", "/") + "/build.log"
}

// writeLog writes a build's log, which clients read by a signed URL while it grows.
func (s *Service) writeLog(ctx context.Context, o *resource.Object[Build], lines []string) error {
	var version, workspace *store.Resource
	err := s.Manager.Store.View(ctx, func(tx store.ReadTx) (err error) {
		if version, err = tx.Resource(o.ID.Parent().Key()); err != nil {
			return err
		}
		workspace, err = tx.Resource(o.ID.Parent().Parent().Key())
		return err
	})
	if err != nil {
		return err
	}
	return s.Artifacts.WriteLog(ctx, workspace, LogPath(version), strings.Join(lines, "\n")+"\n")
}

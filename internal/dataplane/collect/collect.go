// Package collect removes what the data plane keeps for nobody: assets without a model, uploaded files that nothing refers
// to, everything of workspaces that are gone, images that were not used for a while. It is one pass, repeated: it looks
// at the store for what is needed (mark), and at the bucket and the registry for what is there (sweep).
//
// The one invariant: nothing goes that something needs, whatever happens at the same time. Two rules make it so.
//
//   - References. Files are condemned in a transaction that sees that nothing refers to them, and as long as they are,
//     whoever would refer to one is refused (artifact.Removal). Images are named by a web service's row before its cluster
//     is told to run them, and building one, or finding it, dates it anew: it is kept for a while from then on.
//   - Time. Clients upload first and register later, so what was just uploaded is left alone; see grace.
//
// A pass relies on no memory. It may be killed anywhere: what was condemned is found by the next one, everything else
// is found again.
package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/store"
)

const (
	// grace is how long an upload may take from its last file to its registration, and an asset until there is a model of
	// it. azureml-core takes seconds for both. Signed URLs live for twelve hours, so two files of an upload that goes on
	// are never a day apart.
	grace = 24 * time.Hour

	// DefaultKeepImages is how long images of code and models stay without being used.
	DefaultKeepImages = 7 * 24 * time.Hour
	// MinKeepImages is the least that is safe: the images of a deployment are used once when they are made and are named
	// by its web service when all of them are there, which takes the time of a build.
	MinKeepImages = time.Hour
	// environmentsLonger is how many times longer images of environments stay. They take longest to make, many
	// deployments share them, and there are few.
	environmentsLonger = 4

	perRemoval = 1000 // files, twice as many at most: few transactions, and small ones
)

// Blobs are the files of all workspaces; see blob.Store.
type Blobs interface {
	Walk(ctx context.Context, fn func(blob.Info) error) error
	Reap(ctx context.Context, n blob.Name, before time.Time) (size int64, ok bool, err error)
	Sweep(ctx context.Context) error
}

// Images are those in the registry; see registry.Registry.
type Images interface {
	Collect(ctx context.Context, before time.Time, keep func(repo, digest string, stored time.Time) bool) (registry.Removed, error)
}

// Collector removes what nobody needs.
type Collector struct {
	Store      store.Store
	Models     *model.Service
	Blobs      Blobs
	Images     Images
	KeepImages time.Duration // at least MinKeepImages
	Now        func() time.Time
	Logger     *slog.Logger
}

// Pass looks once at everything. What it cannot finish it leaves to the next one; its errors are of all parts.
func (c *Collector) Pass(ctx context.Context) error {
	p := &pass{Collector: c, now: c.Now()}
	assets, err := c.Models.RemoveUnused(ctx, p.now.Add(-grace))
	if err != nil {
		err = fmt.Errorf("removing assets without a model: %w", err)
	}
	files := p.files(ctx)
	if files != nil {
		files = fmt.Errorf("removing files that nothing refers to: %w", files)
	}
	abandoned := c.Blobs.Sweep(ctx)
	if abandoned != nil {
		abandoned = fmt.Errorf("removing uploads that were given up: %w", abandoned)
	}
	removed, images := p.images(ctx)
	if images != nil {
		images = fmt.Errorf("removing images: %w", images)
	}
	if assets+p.removed+removed.Images > 0 {
		c.Logger.InfoContext(ctx, "removed what nobody needs any more", "assets", assets, "files", p.removed, "file_bytes", p.bytes, "images", removed.Images, "image_bytes", removed.Bytes)
	}
	return errors.Join(err, files, abandoned, images)
}

// pass is one look at everything.
type pass struct {
	*Collector
	now     time.Time
	removed int // files
	bytes   int64
}

// needs are what the store says is needed.
type needs struct {
	accounts  map[string]map[string]bool // container/path of files, or of folders with all that is in them, by account that exists
	spaces    map[string]bool            // artifact.Unique of workspaces
	images    map[string]bool            // repository@digest
	workspace map[string]string          // account, by key
}

// look reads what is needed. Its memory grows with the number of models, not with that of files. It reads every model and
// web service, which for 10,000 models takes a quarter of a second, so it runs in a write only where there is something to
// remove.
func look(tx store.ReadTx) (*needs, error) {
	n := &needs{accounts: map[string]map[string]bool{}, spaces: map[string]bool{}, images: map[string]bool{}, workspace: map[string]string{}}
	exists := func(account string) {
		if n.accounts[account] == nil {
			n.accounts[account] = map[string]bool{}
		}
	}
	err := store.Each(tx, store.Query{Type: "microsoft.storage/storageaccounts"}, func(row *store.Resource) error {
		exists(strings.ToLower(armid.MustParse(row.ID).Name()))
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = store.Each(tx, store.Query{Type: "microsoft.machinelearningservices/workspaces"}, func(row *store.Resource) error {
		account := artifact.Account(row)
		exists(account)
		n.workspace[row.Key], n.spaces[artifact.Unique(row)] = account, true
		return nil
	})
	if err != nil {
		return nil, err
	}
	file := func(container, workspace, path string) {
		if files := n.accounts[n.workspace[workspace]]; files != nil {
			files[container+"/"+strings.TrimSuffix(path, "/")] = true
		}
	}
	artifacts := func(workspace string, id artifact.ID) { file(artifact.Container, workspace, string(id)) }
	if err := model.Artifacts(tx, artifacts); err != nil {
		return nil, err
	}
	if err := service.Needs(tx, artifacts, func(ref string) {
		_, name, _ := strings.Cut(ref, "/") // without the registry's host
		n.images[name] = true
	}); err != nil {
		return nil, err
	}
	err = store.Each(tx, store.Query{Type: strings.ToLower(environment.Type)}, func(row *store.Resource) error {
		file(artifact.Logs, row.Parent, environment.LogPath(row))
		return nil
	})
	return n, err
}

// uploads is the origin of artifacts that azureml-core uploads to register them. Artifacts of other origins are nobody's
// leftovers: who chose the origin asks for them by their names, and deletes them.
const uploads = "LocalUpload/"

// removable reports whether nothing needs a file, and what it is a part of: an upload, or an account that does not exist;
// "" for what is not looked at.
func (n *needs) removable(f blob.Name) (unit string, ok bool) {
	files, exists := n.accounts[f.Account]
	if !exists { // its workspace, or the account itself, was deleted
		return f.Account, true
	}
	switch f.Container {
	case artifact.Container:
		rest, mine := strings.CutPrefix(f.Path, uploads)
		if !mine {
			return "", false
		}
		unit, _, _ = strings.Cut(rest, "/")
	case artifact.Logs:
		unit = f.Path
	default:
		return "", false
	}
	unit = f.Account + "/" + f.Container + "/" + unit
	for at := f.Container + "/" + f.Path; ; {
		if files[at] {
			return unit, false
		}
		slash := strings.LastIndexByte(at, '/')
		if slash < 0 {
			return unit, true
		}
		at = at[:slash]
	}
}

// files removes files that nothing refers to.
func (p *pass) files(ctx context.Context) error {
	var r *artifact.Removal
	var n *needs
	err := p.Store.View(ctx, func(tx store.ReadTx) (err error) {
		if r, err = artifact.Removing(tx); err == nil {
			n, err = look(tx)
		}
		return err
	})
	if err != nil {
		return err
	}
	if r != nil { // a pass was cut off in the middle of it
		if err := p.reap(ctx, r); err != nil {
			return err
		}
	}
	w := walk{pass: p, needs: n, large: map[string]bool{}}
	for again := true; again; {
		if again, err = w.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// walk goes through all files.
type walk struct {
	*pass
	needs *needs
	large map[string]bool // uploads with too many files to remember; they are old, and go in a second run

	account string
	gone    bool        // it does not exist
	unit    string      // in it: an upload, or all that is in an account that is gone
	found   []blob.Name // of the unit, removable
	young   bool        // the upload may go on
	left    bool        // there are more than found has
	ready   []blob.Name // of the account, of this unit and earlier ones, to be removed together
}

// run goes through all files once. again says that large has more than before.
func (w *walk) run(ctx context.Context) (again bool, err error) {
	known := len(w.large)
	err = w.Blobs.Walk(ctx, func(f blob.Info) error {
		unit, ok := w.needs.removable(f.Name)
		if unit != w.unit {
			if err := w.end(ctx); err != nil {
				return err
			}
			w.unit = unit
		}
		if f.Name.Account != w.account {
			if err := w.remove(ctx); err != nil {
				return err
			}
			w.account, w.gone = f.Name.Account, w.needs.accounts[f.Name.Account] == nil
		}
		w.young = w.young || !w.gone && !f.Modified.Before(w.now.Add(-grace))
		if !ok {
			return nil
		}
		if len(w.found) == perRemoval {
			if !w.gone && !w.large[unit] { // a later file may be young
				w.left = true
				return nil
			}
			w.ready, w.found = append(w.ready, w.found...), nil
			if err := w.remove(ctx); err != nil {
				return err
			}
		}
		w.found = append(w.found, f.Name)
		return nil
	})
	if err == nil { // else the last unit may have young files that were not listed
		err = w.end(ctx)
	}
	if err == nil {
		err = w.remove(ctx)
	}
	return len(w.large) > known, err
}

// end ends a unit.
func (w *walk) end(ctx context.Context) error {
	if !w.young || w.large[w.unit] {
		w.ready = append(w.ready, w.found...)
		if w.left {
			w.large[w.unit] = true
		}
	}
	w.found, w.young, w.left = nil, false, false
	if len(w.ready) < perRemoval {
		return nil
	}
	return w.remove(ctx)
}

// remove removes the files that are ready, unless something needs them now.
func (w *walk) remove(ctx context.Context) error {
	files := w.ready
	if w.ready = nil; len(files) == 0 {
		return nil
	}
	var r *artifact.Removal
	err := w.Store.Update(ctx, func(tx store.Tx) error {
		n, err := look(tx)
		if err != nil {
			return err
		}
		r = &artifact.Removal{Account: w.account, Before: w.now.Add(-grace)}
		if w.gone {
			r.Before = w.now
		}
		for _, f := range files {
			_, ok := n.removable(f)
			if w.gone && n.accounts[f.Account] != nil {
				ok = false // it came back; its files get the time that all have
			}
			if ok {
				r.Paths = append(r.Paths, f.Container+"/"+f.Path)
			}
		}
		if len(r.Paths) == 0 {
			return nil
		}
		return artifact.Remove(tx, r)
	})
	if err != nil || len(r.Paths) == 0 {
		return err
	}
	return w.reap(ctx, r)
}

// reap carries out a removal that is stored.
func (p *pass) reap(ctx context.Context, r *artifact.Removal) error {
	for _, name := range r.Names() {
		size, ok, err := p.Blobs.Reap(ctx, name, r.Before)
		if err != nil {
			return err
		}
		if ok {
			p.removed++
			p.bytes += size
		}
	}
	return p.Store.Update(ctx, func(tx store.Tx) error { return artifact.Remove(tx, nil) })
}

// images removes images that no web service needs and that were not used for a while, and those of workspaces that are
// gone. It keeps what is not of environments, code or models: the front end's image, which clusters run as long as they are
// attached.
func (p *pass) images(ctx context.Context) (registry.Removed, error) {
	var n *needs
	err := p.Store.View(ctx, func(tx store.ReadTx) (err error) {
		n, err = look(tx)
		return err
	})
	if err != nil {
		return registry.Removed{}, err
	}
	// An image that is found or made after the look is dated after it, and so is kept; it is named by a row long before
	// its time is up.
	return p.Images.Collect(ctx, p.now.Add(-MinKeepImages), func(repo, digest string, stored time.Time) bool {
		if n.images[repo+"@"+digest] {
			return true
		}
		if repo == image.Environments {
			return !stored.Before(p.now.Add(-environmentsLonger * p.KeepImages))
		}
		rest, ok := strings.CutPrefix(repo, service.Repositories)
		if !ok {
			return true
		}
		if space, _, _ := strings.Cut(rest, "/"); !n.spaces[space] {
			// A workspace is stored before its first image, so one that was not there at the look is gone, or came since.
			return !stored.Before(p.now)
		}
		return !stored.Before(p.now.Add(-p.KeepImages))
	})
}

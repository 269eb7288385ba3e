package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/store"
)

// Removal are blobs that are being removed because nothing refers to them. It is stored in the transaction that saw that
// nothing does, and until it is forgotten Available refuses whatever would refer to one of them: no reference can come
// between the look and the removal, in this process or another, before a crash or after it.
type Removal struct {
	Account string    `json:"account"`
	Before  time.Time `json:"before"` // blobs that were written since are others, and stay
	Paths   []string  `json:"paths"`  // container/path
}

// There is at most one removal at a time, under this name.
const (
	removalBucket = "artifact-removal"
	removalKey    = "present"
)

// Names are the removal's blobs.
func (r *Removal) Names() []blob.Name {
	out := make([]blob.Name, len(r.Paths))
	for i, p := range r.Paths {
		box, path, _ := strings.Cut(p, "/")
		out[i] = blob.Name{Account: r.Account, Container: box, Path: path}
	}
	return out
}

// Removing is the removal that is under way, nil for none.
func Removing(tx store.ReadTx) (*Removal, error) {
	data, err := tx.Value(removalBucket, removalKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	r := &Removal{}
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return nil, fmt.Errorf("reading which blobs are being removed: %w", err)
	}
	return r, nil
}

// Remove stores which blobs are being removed; nil forgets it.
func Remove(tx store.Tx, r *Removal) error {
	if r == nil {
		return tx.PutValue(removalBucket, removalKey, nil)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.PutValue(removalBucket, removalKey, data)
}

// Available refuses an artifact, or a prefix of some, that is being removed. Whatever stores a reference asks in the same
// transaction. Errors: *armerr.Error with Conflict.
func Available(tx store.ReadTx, workspace armid.ID, id ID) error {
	r, err := Removing(tx)
	if err != nil || r == nil {
		return err
	}
	row, err := tx.Resource(workspace.Key())
	if err != nil {
		return err
	}
	whole := Container + "/" + strings.TrimSuffix(string(id), "/")
	if r.Account != Account(row) || !slices.ContainsFunc(r.Paths, func(p string) bool { return p == whole || strings.HasPrefix(p, whole+"/") }) {
		return nil
	}
	e := armerr.New(armerr.CodeConflict, "What was uploaded to '%s' is being removed: it is old, and nothing referred to it. Upload it again, to another path, and register it then.", id)
	e.RetryAfter = 2 * time.Second
	return e
}

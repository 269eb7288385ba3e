package collect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/store"
)

// listed are files and images that are only listed: what a pass costs apart from the bucket and the registry.
type listed struct {
	account string
	n       int
}

func (l listed) Walk(_ context.Context, fn func(blob.Info) error) error {
	for i := range l.n {
		if err := fn(blob.Info{Name: blob.Name{Account: l.account, Container: artifact.Container, Path: fmt.Sprintf("LocalUpload/%06d/model.pkl", i)}}); err != nil {
			return err
		}
	}
	return nil
}

func (listed) Reap(context.Context, blob.Name, time.Time) (int64, bool, error) { return 1, true, nil }
func (listed) Sweep(context.Context) error                                     { return nil }
func (l listed) Collect(_ context.Context, _ time.Time, keep func(string, string, time.Time) bool) (registry.Removed, error) {
	for i := range l.n {
		keep("berth/workspaces/"+l.account+"/models", fmt.Sprint(i), time.Time{})
	}
	return registry.Removed{}, nil
}

// TestManyModels has a pass look at thousands of models: once with nothing to remove, once with 1,500 files that nothing refers
// to. It logs what that takes.
func TestManyModels(t *testing.T) {
	t.Parallel()
	const models = 2000
	s := start(t, nil)
	s.update(func(tx store.Tx) error {
		for i := range models {
			for typ, doc := range map[string]string{
				model.Assets: fmt.Sprintf(`{"properties":{"name":"a","artifacts":[{"prefix":"LocalUpload/%06d/model.pkl"}]}}`, i),
				model.Models: fmt.Sprintf(`{"properties":{"name":"m","version":%d,"url":"aml://asset/%036d"}}`, i, i),
			} {
				name := fmt.Sprintf("%036d", i)
				if typ == model.Models {
					name = fmt.Sprintf("m:%d", i)
				}
				id := s.Workspace.Child(typ[strings.LastIndexByte(typ, '/')+1:], name)
				if err := tx.Create(&store.Resource{Key: id.Key(), ID: id.String(), Type: strings.ToLower(typ), Parent: s.Workspace.Key(), Spec: json.RawMessage(doc), State: resource.StateSucceeded}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s.Advance(2 * day)
	for _, files := range []int{models, models + 1500} {
		l := listed{artifact.Account(s.row()), files}
		s.collector.Blobs, s.collector.Images = l, l
		begun := time.Now()
		s.pass()
		t.Logf("%d models, %d files and images: %v", models, files, time.Since(begun))
	}
}

package service

import (
	"fmt"
	"strings"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/serving"
	"github.com/berthdev/berth/internal/store"
)

// Repositories begins the names of the repositories with code and models: the workspace's artifact.Unique follows, so
// that they are no other workspace's and go with theirs.
const Repositories = "berth/workspaces/"

// Needs calls artifact for the artifacts that the web services refer to, with the workspace's key, and image for the
// images that their clusters run or are about to run, as references. A row that cannot be read is an error, because it may
// need anything.
func Needs(tx store.ReadTx, artifacts func(workspace string, id artifact.ID), image func(ref string)) error {
	return store.Each(tx, store.Query{Type: strings.ToLower(Type)}, func(row *store.Resource) error {
		doc, err := resource.ReadSpec[WebService](row)
		if err != nil {
			return err
		}
		for _, v := range doc.Properties.all() {
			if v.Image == nil {
				continue
			}
			for _, a := range v.Image.Assets {
				if id, ok := strings.CutPrefix(a.URL, artifactURL); ok {
					artifacts(row.Parent, artifact.ID(id))
				}
			}
		}
		record, err := resource.RecordOf(row)
		if err != nil {
			return err
		}
		mem, err := recall(record.Data)
		if err != nil {
			return fmt.Errorf("%s: %w", row.ID, err)
		}
		for _, p := range []*plan{mem.Good, mem.Next} {
			if p == nil {
				continue
			}
			for _, ref := range imagesOf(p.Workloads) {
				image(ref)
			}
		}
		return nil
	})
}

func imagesOf(workloads []serving.Workload) []string {
	var out []string
	for i := range workloads {
		out = append(out, workloads[i].Image)
		for _, m := range workloads[i].Mounts {
			out = append(out, m.Image)
		}
	}
	return out
}

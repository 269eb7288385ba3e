package service

import (
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/store"
)

const (
	defaultCount = 255
	maxCount     = 1000
)

// list shows the web services that match the filters, the last changed first unless asked otherwise.
func (s *Service) list(r *dataplane.Request) (*dataplane.Reply, error) {
	count, err := r.Number("count", defaultCount, 1, maxCount)
	if err != nil {
		return nil, err
	}
	start, err := r.Number(dataplane.SkipToken, 0, 0, 1<<30)
	if err != nil {
		return nil, err
	}
	compare, err := order(r.Param("orderBy"))
	if err != nil {
		return nil, err
	}
	value, more := []any{}, false
	err = s.Manager.Store.View(r.Context(), func(tx store.ReadTx) error {
		var rows []*store.Resource
		err := each(tx, r.Workspace, func(row *store.Resource, doc *resource.Document[WebService]) {
			if listed(r, row, doc) {
				rows = append(rows, row)
			}
		})
		if err != nil {
			return err
		}
		slices.SortStableFunc(rows, compare)
		rows = rows[min(start, len(rows)):]
		more = len(rows) > count
		value = value[:0]
		for _, row := range rows[:min(count, len(rows))] {
			body, err := s.wire(tx, row, strings.EqualFold(r.Param("expand"), "true"))
			if err != nil {
				return err
			}
			value = append(value, body)
		}
		return nil
	})
	next := ""
	if more {
		next = strconv.Itoa(start + count)
	}
	return &dataplane.Reply{Body: r.Page("/services", value, next)}, err
}

func order(by string) (func(a, b *store.Resource) int, error) {
	created := func(a, b *store.Resource) int { return a.Created.At.Compare(b.Created.At) }
	updated := func(a, b *store.Resource) int { return a.Modified.At.Compare(b.Modified.At) }
	switch strings.ToLower(by) {
	case "", "updatedatdesc":
		return func(a, b *store.Resource) int { return updated(b, a) }, nil
	case "updatedatasc":
		return updated, nil
	case "createdatdesc":
		return func(a, b *store.Resource) int { return created(b, a) }, nil
	case "createdatasc":
		return created, nil
	}
	return nil, armerr.Field("orderBy", "%q is not one of UpdatedAtDesc, UpdatedAtAsc, CreatedAtDesc, CreatedAtAsc.", by)
}

// listed reports whether a web service matches all filters of a request.
func listed(r *dataplane.Request, row *store.Resource, doc *resource.Document[WebService]) bool {
	w := &doc.Properties
	for _, k := range []string{"imageId", "imageName", "imageDigest", "runId"} {
		if r.Param(k) != "" {
			return false // there are no registered images, and no runs that deploy
		}
	}
	if v := r.Param("computeType"); v != "" && !strings.EqualFold(v, w.ComputeType) {
		return false
	}
	if v := r.Param("name"); v != "" && !strings.EqualFold(v, armid.MustParse(row.ID).Name()) {
		return false
	}
	if !dataplane.Matches(doc.Tags, r.Param("tags")) || !dataplane.Matches(doc.Tags, r.Param("tag")) || !dataplane.Matches(w.Properties, r.Param("properties")) {
		return false
	}
	id, name := r.Param("modelId"), r.Param("modelName")
	if id == "" && name == "" {
		return true
	}
	for _, v := range w.all() {
		if v.Image == nil {
			continue
		}
		for _, m := range v.Image.ModelIDs {
			n, _ := model.Split(m)
			if (id == "" || strings.EqualFold(m, id)) && (name == "" || strings.EqualFold(n, name)) {
				return true
			}
		}
	}
	return false
}

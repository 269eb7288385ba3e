package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/store"
)

// filter is what a list of models is narrowed by.
type filter struct {
	Name, Version, Tag, Tags, Properties, Framework, Description, RunID, DatasetID, OrderBy, SkipToken string
	LatestVersionOnly                                                                                  bool
	Count, Offset                                                                                      int
}

const (
	defaultCount = 255
	maxCount     = 1000
)

func (s *Service) list(r *dataplane.Request) (*dataplane.Reply, error) {
	f := filter{
		Name: r.Param("name"), Version: r.Param("version"), Tag: r.Param("tag"), Tags: r.Param("tags"), Properties: r.Param("properties"), Framework: r.Param("framework"),
		Description: r.Param("description"), RunID: r.Param("runId"), DatasetID: r.Param("datasetId"), OrderBy: r.Param("orderBy"),
		SkipToken: r.Param(dataplane.SkipToken), LatestVersionOnly: strings.EqualFold(r.Param("latestVersionOnly"), "true"),
	}
	var err error
	if f.Count, err = r.Number("count", defaultCount, 1, maxCount); err != nil {
		return nil, err
	}
	if f.Offset, err = r.Number("offset", 0, 0, 1<<30); err != nil {
		return nil, err
	}
	return s.page(r, f)
}

// page answers with a page of models, the newest first unless asked otherwise.
func (s *Service) page(r *dataplane.Request, f filter) (*dataplane.Reply, error) {
	var rows []*store.Resource
	err := s.Manager.Store.View(r.Context(), func(tx store.ReadTx) (err error) {
		rows, err = s.versions(tx, r.Workspace, f.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := order(rows, f.OrderBy); err != nil {
		return nil, err
	}
	latest := map[string]int{}
	for _, row := range rows {
		name, v := Split(armid.MustParse(row.ID).Name())
		latest[strings.ToLower(name)] = max(latest[strings.ToLower(name)], v)
	}
	start := f.Offset
	if f.SkipToken != "" {
		if start, err = strconv.Atoi(f.SkipToken); err != nil || start < 0 {
			return nil, armerr.Field(dataplane.SkipToken, "it is not one that this list gave out.")
		}
	}
	value, next, at := []any{}, "", 0
	for _, row := range rows {
		w, err := Wire(row)
		if err != nil {
			return nil, err
		}
		if !f.matches(w, latest) {
			continue
		}
		at++
		if at <= start {
			continue
		}
		if len(value) == f.Count {
			next = strconv.Itoa(start + f.Count)
			break
		}
		value = append(value, w)
	}
	return dataplane.OK(r.Page("/models", value, next))
}

func (f *filter) matches(w map[string]any, latest map[string]int) bool {
	is := func(wanted, field string) bool {
		have, _ := w[field].(string)
		return wanted == "" || strings.EqualFold(have, wanted)
	}
	tags, _ := w["kvTags"].(map[string]string)
	properties, _ := w["properties"].(map[string]string)
	if f.DatasetID != "" {
		data, err := json.Marshal(w["datasets"])
		if err != nil || !strings.Contains(string(data), strconv.Quote(f.DatasetID)) {
			return false
		}
	}
	name, _ := w["name"].(string)
	return is(f.Framework, "framework") && is(f.RunID, "runId") && is(f.Description, "description") &&
		(f.Version == "" || f.Version == fmt.Sprint(w["version"])) && dataplane.Matches(tags, f.Tag) && dataplane.Matches(tags, f.Tags) && dataplane.Matches(properties, f.Properties) &&
		(!f.LatestVersionOnly || latest[strings.ToLower(name)] == w["version"])
}

func order(rows []*store.Resource, by string) error {
	var less func(a, b *store.Resource) int
	created := func(a, b *store.Resource) int {
		_, v := Split(armid.MustParse(a.ID).Name())
		_, w := Split(armid.MustParse(b.ID).Name())
		return cmp.Or(a.Created.At.Compare(b.Created.At), cmp.Compare(v, w))
	}
	updated := func(a, b *store.Resource) int { return a.Modified.At.Compare(b.Modified.At) }
	switch strings.ToLower(by) {
	case "", "createdatdesc":
		less = func(a, b *store.Resource) int { return created(b, a) }
	case "createdatasc":
		less = created
	case "updatedatdesc":
		less = func(a, b *store.Resource) int { return updated(b, a) }
	case "updatedatasc":
		less = updated
	default:
		return armerr.Field("orderBy", "%q is not one of CreatedAtDesc, CreatedAtAsc, UpdatedAtDesc, UpdatedAtAsc.", by)
	}
	slices.SortStableFunc(rows, less)
	return nil
}

package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// atOnce sends n requests at the same moment.
func (s *server) atOnce(n int, request func(i int) (method, path, body string)) []reply {
	s.t.Helper()
	replies := make([]reply, n)
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			replies[i], errs[i] = s.send(request(i))
		})
	}
	close(start)
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			s.t.Fatal(err)
		}
		if replies[i].status >= 500 {
			s.t.Errorf("request %d: %d %s", i, replies[i].status, replies[i].raw)
		}
	}
	return replies
}

func count(replies []reply, status int) int {
	n := 0
	for _, r := range replies {
		if r.status == status {
			n++
		}
	}
	return n
}

// Many clients make the same compute: it is made once, and every client's operation ends well.
func TestRace_C4_SameNameIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	replies := s.atOnce(16, func(int) (string, string, string) {
		return "PUT", ws + "/computes/same?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`
	})
	if n := count(replies, http.StatusCreated); n != 1 {
		t.Errorf("it was created %d times", n)
	}
	for _, r := range replies {
		if op := s.settle(r); op.at("status") != "Succeeded" {
			t.Error(op.raw)
		}
	}
	if list := s.want(200, "GET", s.expand("{mc}?api-version=2025-10-01"), "").body["value"].([]any); len(list) != 1 {
		t.Errorf("there are %d clusters", len(list))
	}
}

// Many attachments of one cluster from one workspace: one gets it, the others are told who has
// it. Other workspaces may attach it too.
func TestRace_A5_OneClusterOncePerWorkspace(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	const n, others = 8, 3
	for i := range others {
		s.want(200, "PUT", s.expand(fmt.Sprintf("{ml}/ws%d?api-version=2020-08-01", i)), `{"location":"westeurope"}`)
	}
	cluster := s.expand("{mc}/shared")
	if op := s.settle(s.want(201, "PUT", cluster+"?api-version=2025-10-01", `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":3,"vmSize":"Standard_D4s_v3","mode":"System"}]}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	replies := s.atOnce(n+others, func(i int) (string, string, string) {
		from := ws
		if i >= n {
			from = s.expand(fmt.Sprintf("{ml}/ws%d", i-n))
		}
		return "PUT", fmt.Sprintf("%s/computes/att%d?api-version=2020-02-02", from, i), fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","resourceId":%q}}`, cluster)
	})
	if made, refused := count(replies, http.StatusCreated), count(replies, http.StatusConflict); made != 1+others || refused != n-1 {
		t.Fatalf("%d attached it and %d were refused", made, refused)
	}
	for _, r := range replies {
		if r.status == http.StatusConflict && !strings.Contains(r.raw, "ClusterAlreadyAttached") {
			t.Error(r.raw)
		}
		if r.status == http.StatusCreated {
			if op := s.settle(r); op.at("status") != "Succeeded" {
				t.Error(op.raw)
			}
		}
	}
}

// Creation against deletion: whatever the order, in the end there is a compute with its
// cluster or neither of them.
func TestRace_CreateAgainstDelete(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	compute := ws + "/computes/fought?api-version=2020-02-02"
	for round := range 5 {
		for _, r := range s.atOnce(12, func(i int) (string, string, string) {
			if i%2 == 0 {
				return "PUT", compute, `{"location":"westeurope","properties":{"computeType":"AKS"}}`
			}
			return "DELETE", compute + "&underlyingResourceAction=Delete", ""
		}) {
			if r.header.Get("Azure-AsyncOperation") != "" {
				s.settle(r) // superseded ones may be Canceled; all of them end
			}
		}
		deadline := time.Now().Add(20 * time.Second)
		for {
			c := s.do("GET", compute, "")
			clusters := s.want(200, "GET", s.expand("{mc}?api-version=2025-10-01"), "").body["value"].([]any)
			if state := c.at("properties.provisioningState"); c.status == 404 && len(clusters) == 0 || state == "Succeeded" && len(clusters) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: it does not converge: %d clusters, compute %s", round, len(clusters), c.raw)
			}
			time.Sleep(20 * time.Millisecond) // polling a real server
		}
	}
}

// Of many writers that read the same etag, one wins.
func TestRace_Etag(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	etag := s.want(200, "GET", ws+v, "").header.Get("ETag")
	s.header = http.Header{"If-Match": {etag}}
	replies := s.atOnce(16, func(i int) (string, string, string) {
		return "PATCH", ws + v, fmt.Sprintf(`{"tags":{"winner":"%d"}}`, i)
	})
	if won, lost := count(replies, http.StatusOK), count(replies, http.StatusPreconditionFailed); won != 1 || lost != 15 {
		t.Errorf("%d won and %d lost", won, lost)
	}
	s.header = http.Header{"If-None-Match": {"*"}}
	replies = s.atOnce(16, func(int) (string, string, string) {
		return "PUT", s.expand("{ml}/once?api-version=2020-08-01"), `{"location":"westeurope"}`
	})
	if won, lost := count(replies, http.StatusOK), count(replies, http.StatusPreconditionFailed); won != 1 || lost != 15 {
		t.Errorf("%d created it and %d were refused", won, lost)
	}
}

// The group goes while things are made in it: nothing is left of either.
func TestRace_GroupAgainstItsResources(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	for _, r := range s.atOnce(9, func(i int) (string, string, string) {
		switch {
		case i == 4:
			return "DELETE", s.expand("{rg}" + v), ""
		case i%2 == 0:
			return "PUT", fmt.Sprintf("%s/computes/com%d?api-version=2020-02-02", ws, i), `{"location":"westeurope","properties":{"computeType":"AKS"}}`
		}
		return "PUT", s.expand(fmt.Sprintf("{mc}/c%d?api-version=2025-10-01", i)), `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":1,"mode":"System"}]}}`
	}) {
		if r.header.Get("Azure-AsyncOperation") != "" {
			s.settle(r)
		}
	}
	s.want(404, "GET", s.expand("{rg}"+v), "")
	if r := s.want(200, "GET", s.sub()+"/resources?api-version=2022-12-01", ""); len(r.body["value"].([]any)) != 0 {
		t.Errorf("left: %s", r.raw)
	}
}

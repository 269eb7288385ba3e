// Command api measures Berth itself: start, memory, reads with 10,000 computes in the store,
// and writes. The peer in the same run is a bare Go HTTPS server that answers the same
// bytes from memory: the floor of what HTTP over TLS costs here.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/bench/internal/berth"
	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/seal"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/sqlite"
)

func main() {
	bin := flag.String("berth", "bin/berth", "the berth program")
	computes := flag.Int("computes", 10000, "computes in the store")
	reads := flag.Int("reads", 5000, "reads to time, one after the other")
	writes := flag.Int("writes", 4000, "writes to time, 16 at a time")
	flag.Parse()
	if err := run(*bin, *computes, *reads, *writes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bin string, computes, reads, writes int) (err error) {
	ctx, cancel := berth.Context(5 * time.Minute)
	defer cancel()
	home, err := berth.Home()
	if err != nil {
		return err
	}
	first, err := berth.Up(bin, home, "fake")
	if err != nil {
		return err
	}
	fmt.Printf("first start (keys made), until ready: %d ms\n", first.Start.Milliseconds())
	if err := first.Down(false); err != nil {
		return err
	}
	ws, err := seed(ctx, home, first.Info.SubscriptionID, computes)
	if err != nil {
		return err
	}
	s, err := berth.Up(bin, home, "fake")
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Down(true); err == nil {
			err = e
		}
	}()
	fmt.Printf("start with %d computes in the store, until ready: %d ms\n", computes, s.Start.Milliseconds())
	m := berth.MemoryOf(func(pid int, _ []string) bool { return pid == s.PID })
	fmt.Printf("memory when idle: %.0f MiB resident\n", m.RSS)
	token, _, err := s.Client.Token(ctx)
	if err != nil {
		return err
	}
	get := func(i int) string {
		return fmt.Sprintf("%s%s/computes/c%05d?api-version=2024-04-01", s.Info.URL, ws, i%computes)
	}
	body, ours, err := timeReads(get, token, reads)
	if err != nil {
		return err
	}
	peer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer peer.Close()
	_, floor, err := timeReads(func(int) string { return peer.URL }, token, reads)
	if err != nil {
		return err
	}
	q := berth.Quantile
	fmt.Printf("GET of a compute: median %.3f ms, p99 %.3f ms; bare HTTPS server: median %.3f ms, p99 %.3f ms (ratio of medians %.1f)\n",
		ms(q(ours, .5)), ms(q(ours, .99)), ms(q(floor, .5)), ms(q(floor, .99)), float64(q(ours, .5))/float64(q(floor, .5)))
	rate, p99, err := timeWrites(s, token, writes)
	if err != nil {
		return err
	}
	fmt.Printf("PUT of resource groups, 16 at a time: %.0f a second, p99 %.1f ms\n", rate, ms(p99))
	m = berth.MemoryOf(func(pid int, _ []string) bool { return pid == s.PID })
	fmt.Printf("memory after that: %.0f MiB resident\n", m.RSS)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// seed writes a workspace and its computes into the store, as they are after they were created.
func seed(ctx context.Context, home app.Home, sub string, n int) (ws string, err error) {
	keys, err := seal.Open(home.Key())
	if err != nil {
		return "", err
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: home.Store(), Sealer: keys})
	if err != nil {
		return "", err
	}
	defer func() {
		if e := st.Close(); err == nil {
			err = e
		}
	}()
	by := store.Stamp{At: time.Now().UTC(), By: "bench", Kind: "Application"}
	row := func(id armid.ID, spec, status string) *store.Resource {
		return &store.Resource{
			Key: id.Key(), ID: id.String(), Type: strings.ToLower(id.Type()), Parent: id.Parent().Key(), Subscription: strings.ToLower(sub), Group: strings.ToLower(id.GroupName()),
			Location: "westeurope", Spec: json.RawMessage(spec), Status: json.RawMessage(status), State: "Succeeded", Generation: 1, Observed: 1, Created: by, Modified: by,
		}
	}
	group := armid.Subscription(sub).Group("bench")
	workspace := group.Extend("Microsoft.MachineLearningServices", "workspaces", "ws")
	const batch = 500
	for from := 0; from < n; from += batch {
		err := st.Update(ctx, func(tx store.Tx) error {
			if from == 0 {
				if err := tx.Create(row(group, `{"location":"westeurope","properties":{}}`, `{}`)); err != nil {
					return err
				}
				if err := tx.Create(row(workspace, `{"location":"westeurope","kind":"Default","properties":{"attachConflict":"refuse"}}`, `{}`)); err != nil {
					return err
				}
			}
			for i := from; i < min(from+batch, n); i++ {
				id := workspace.Child("computes", fmt.Sprintf("c%05d", i))
				cluster := group.Extend("Microsoft.ContainerService", "managedClusters", fmt.Sprintf("k%05d", i))
				err := tx.Create(row(id,
					fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","resourceId":%q,"properties":{"clusterPurpose":"FastProd","loadBalancerType":"PublicIp"}}}`, cluster),
					fmt.Sprintf(`{"properties":{"resourceId":%q,"isAttachedCompute":true,"computeLocation":"westeurope","properties":{"agentCount":3,"agentVmSize":"Standard_D3_v2","clusterFqdn":"k%05d.hcp.westeurope.azmk8s.io"}}}`, cluster, i)))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return workspace.String(), nil
}

func client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // loopback, and the check of a chain is not what is measured
		MaxIdleConnsPerHost: 32,
	}}
}

// timeReads sends reads one after the other over one connection.
func timeReads(url func(int) string, token string, n int) (last []byte, d []time.Duration, err error) {
	c := client()
	defer c.CloseIdleConnections()
	const warm = 200
	for i := range n + warm {
		req, err := http.NewRequest(http.MethodGet, url(i*7919), nil)
		if err != nil {
			return nil, nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		start := time.Now()
		res, err := c.Do(req)
		if err != nil {
			return nil, nil, err
		}
		last, err = io.ReadAll(res.Body)
		if err = closed(res, err); err != nil {
			return nil, nil, err
		}
		if i >= warm {
			d = append(d, time.Since(start))
		}
	}
	return last, d, nil
}

func closed(res *http.Response, err error) error {
	if e := res.Body.Close(); err == nil {
		err = e
	}
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s", res.Request.Method, res.Request.URL, res.Status)
	}
	return err
}

// timeWrites sends writes 16 at a time; each is one durable transaction.
func timeWrites(s *berth.Server, token string, n int) (rate float64, p99 time.Duration, err error) {
	const workers = 16
	c := client()
	defer c.CloseIdleConnections()
	var next atomic.Int64
	var wg sync.WaitGroup
	times := make([]time.Duration, n)
	failures := make(chan error, workers)
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				began := time.Now()
				if err := put(c, fmt.Sprintf("%s/subscriptions/%s/resourceGroups/w%d?api-version=2021-04-01", s.Info.URL, s.Info.SubscriptionID, i), token); err != nil {
					failures <- err
					return
				}
				times[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	total := time.Since(start)
	select {
	case err := <-failures:
		return 0, 0, err
	default:
	}
	return float64(n) / total.Seconds(), berth.Quantile(times, .99), nil
}

func put(c *http.Client, url, token string) error {
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(`{"location":"westeurope"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return closed(res, err)
}

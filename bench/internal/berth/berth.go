// Package berth starts a Berth for a benchmark and speaks to it as any ARM client does.
package berth

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/armclient"
)

// Server is a running Berth in a home folder of its own.
type Server struct {
	Home   app.Home
	Info   app.Info
	PID    int
	Start  time.Duration // from the start of the process until it answers
	Client *armclient.Client
	bin    string
}

// Context ends when the benchmark has taken too long or is interrupted, so that it takes its clusters down before it ends.
func Context(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	return ctx, func() { cancel(); stop() }
}

// Home makes a home folder.
func Home() (app.Home, error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	return app.Home(dir), err
}

// Up starts Berth, detached, and signs in.
func Up(bin string, home app.Home, provider string) (*Server, error) {
	s := &Server{Home: home, bin: bin}
	start := time.Now()
	if out, err := s.run("up", "--detach", "--provider", provider, "--log-level", "warn"); err != nil {
		return nil, fmt.Errorf("berth up: %w: %s", err, out)
	}
	s.Start = time.Since(start)
	data, err := os.ReadFile(filepath.Join(string(home), "berth.json"))
	if err != nil {
		return nil, err
	}
	var state struct {
		app.Info
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, err
	}
	s.Info, s.PID = state.Info, state.PID
	c, err := home.ReadCredentials()
	if err != nil {
		return nil, err
	}
	s.Client, err = armclient.New(armclient.Config{URL: s.Info.URL, CAFile: s.Info.CAFile, Proxy: s.Info.ProxyURL, Tenant: c.TenantID, ClientID: c.ClientID, ClientSecret: c.ClientSecret, Version: "bench"})
	return s, err
}

func (s *Server) run(args ...string) (string, error) {
	c := exec.Command(s.bin, append(args, "--home", string(s.Home))...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// Down stops it; with remove its clusters and data go, too.
func (s *Server) Down(remove bool) error {
	args := []string{"down"}
	if remove {
		args = append(args, "--delete", "--yes")
	}
	out, err := s.run(args...)
	if err != nil {
		return fmt.Errorf("berth down: %w: %s", err, out)
	}
	return nil
}

// Put writes a resource and waits for its operation; it returns the time from the request
// until the operation has succeeded.
func (s *Server) Put(ctx context.Context, path, version string, body any) (time.Duration, error) {
	start := time.Now()
	res, err := s.Client.Do(ctx, armclient.Request{Method: "PUT", Path: path, Version: version, Body: body})
	if err != nil {
		return 0, err
	}
	_, err = s.Client.Wait(ctx, res, func(string, string) {})
	return time.Since(start), err
}

// Delete deletes a resource and waits until it is gone.
func (s *Server) Delete(ctx context.Context, path, version string) (time.Duration, error) {
	start := time.Now()
	res, err := s.Client.Do(ctx, armclient.Request{Method: "DELETE", Path: path, Version: version})
	if err != nil {
		return 0, err
	}
	_, err = s.Client.Wait(ctx, res, func(string, string) {})
	return time.Since(start), err
}

// Memory is what processes hold, in MiB: resident (RSS) counts shared pages in each
// process, proportional (PSS) divides them among those that share them.
type Memory struct{ RSS, PSS float64 }

// MemoryOf adds up the processes that an environment variable marks, or one process.
func MemoryOf(match func(pid int, environ []string) bool) Memory {
	var m Memory
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		environ, err := os.ReadFile(d + "/environ")
		if err != nil || !match(pid, strings.Split(string(environ), "\x00")) {
			continue
		}
		rollup, err := os.ReadFile(d + "/smaps_rollup")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(rollup)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kib, _ := strconv.ParseFloat(f[1], 64)
			switch f[0] {
			case "Rss:":
				m.RSS += kib / 1024
			case "Pss:":
				m.PSS += kib / 1024
			}
		}
	}
	return m
}

// Summary is the minimum, median and maximum of durations.
func Summary(d []time.Duration) string {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return fmt.Sprintf("min %.2f s, median %.2f s, max %.2f s", d[0].Seconds(), d[len(d)/2].Seconds(), d[len(d)-1].Seconds())
}

// Quantile is the q-quantile of durations.
func Quantile(d []time.Duration, q float64) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/cluster/local/network"
)

// registryPort is where the first registry listens on the host's end of each cluster's network, and the next one on the
// next port. That address is the cluster's alone, so the ports cannot be taken.
const registryPort = 5000

// Registry is where nodes fetch the images whose references begin with a host.
type Registry struct {
	Host    string // as in references: with its port, without repositories
	Handler http.Handler
}

// registries are the listeners by which clusters reach registries. They live as long as this
// process: with Berth down, nodes have what they fetched, and try again for the rest.
type registries struct {
	mu      sync.Mutex
	servers map[listener]*http.Server
}

// listener is a registry's in a cluster's network.
type listener struct{ cluster, host string }

func (c *localCluster) registryAddress(i int) string {
	return net.JoinHostPort(c.record.Subnet.Host().String(), strconv.Itoa(registryPort+i))
}

// serveRegistries makes the registries answer in the cluster's network.
func (c *localCluster) serveRegistries() error {
	if !network.Connected(c.hostLink()) {
		return nil
	}
	c.open.mu.Lock()
	defer c.open.mu.Unlock()
	for i, r := range c.config.Registries {
		if err := c.serveRegistry(i, r); err != nil {
			return fmt.Errorf("serve the registry %s in the cluster's network: %w", r.Host, err)
		}
	}
	return nil
}

// serveRegistry opens a listener that is not open. Its nodes may not know the registry yet: the last process had others.
func (c *localCluster) serveRegistry(i int, r Registry) error {
	at := listener{c.key, r.Host}
	if c.open.servers[at] != nil {
		return nil
	}
	for _, n := range c.record.Nodes {
		if err := c.writeRegistryHosts(n); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", c.registryAddress(i))
	if err != nil {
		return err
	}
	s := &http.Server{Handler: r.Handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(logWriter{c.config.Logger.Warn}, "", 0)}
	c.open.servers[at] = s
	go func() {
		err := s.Serve(l)
		c.open.mu.Lock()
		defer c.open.mu.Unlock()
		if c.open.servers[at] == s {
			delete(c.open.servers, at) // the next look opens it again
		}
		if !errors.Is(err, http.ErrServerClosed) {
			c.config.Logger.Warn("a registry's listener ended", "cluster", c.id, "registry", r.Host, "error", err)
		}
	}()
	return nil
}

// closeRegistries ends that.
func (c *localCluster) closeRegistries() error {
	c.open.mu.Lock()
	var open []*http.Server
	for at, s := range c.open.servers {
		if at.cluster == c.key {
			open = append(open, s)
			delete(c.open.servers, at)
		}
	}
	c.open.mu.Unlock()
	var errs []error
	for _, s := range open {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

type logWriter struct {
	warn func(msg string, args ...any)
}

func (w logWriter) Write(p []byte) (int, error) {
	w.warn("registry", "message", string(p))
	return len(p), nil
}

// writeRegistryHosts tells a node's containerd where the registries' names lead. It reads that at
// each pull. A registry that was there once and is no longer leads nowhere.
func (c *localCluster) writeRegistryHosts(n node) error {
	known, err := os.ReadDir(c.nodeFile(n, "registries"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range known {
		if !slices.ContainsFunc(c.config.Registries, func(r Registry) bool { return r.Host == dir.Name() }) {
			if err := os.RemoveAll(c.nodeFile(n, "registries", dir.Name())); err != nil {
				return err
			}
		}
	}
	for i, r := range c.config.Registries {
		dir := c.nodeFile(n, "registries", r.Host)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		url := "http://" + c.registryAddress(i)
		if err := writeFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %[1]q\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", url)); err != nil {
			return err
		}
	}
	return nil
}

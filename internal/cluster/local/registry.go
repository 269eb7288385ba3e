package local

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/cluster/local/network"
)

// registryPort is where the registry listens on the host's end of each cluster's network. That address
// is the cluster's alone, so the port cannot be taken.
const registryPort = 5000

// registries are the listeners by which clusters reach the installation's registry. They live as long as this
// process: with Berth down, nodes have what they fetched, and try again for the rest.
type registries struct {
	mu      sync.Mutex
	servers map[string]*http.Server // by cluster key
}

func (c *localCluster) registryAddress() string {
	return net.JoinHostPort(c.record.Subnet.Host().String(), strconv.Itoa(registryPort))
}

// serveRegistry makes the registry answer in the cluster's network.
func (c *localCluster) serveRegistry() error {
	if c.config.Registry == nil || !network.Connected(c.hostLink()) {
		return nil
	}
	c.open.mu.Lock()
	defer c.open.mu.Unlock()
	if c.open.servers[c.key] != nil {
		return nil
	}
	l, err := net.Listen("tcp", c.registryAddress())
	if err != nil {
		return fmt.Errorf("serve the registry in the cluster's network: %w", err)
	}
	s := &http.Server{Handler: c.config.Registry, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(logWriter{c.config.Logger.Warn}, "", 0)}
	c.open.servers[c.key] = s
	go func() {
		err := s.Serve(l)
		c.open.mu.Lock()
		defer c.open.mu.Unlock()
		if c.open.servers[c.key] == s {
			delete(c.open.servers, c.key) // the next look opens it again
		}
		if !errors.Is(err, http.ErrServerClosed) {
			c.config.Logger.Warn("the registry's listener ended", "cluster", c.id, "error", err)
		}
	}()
	return nil
}

// closeRegistry ends that.
func (c *localCluster) closeRegistry() error {
	c.open.mu.Lock()
	s := c.open.servers[c.key]
	delete(c.open.servers, c.key)
	c.open.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Close()
}

type logWriter struct {
	warn func(msg string, args ...any)
}

func (w logWriter) Write(p []byte) (int, error) {
	w.warn("registry", "message", string(p))
	return len(p), nil
}

// writeRegistryHosts tells a node's containerd where the registry's name leads. It reads that at
// each pull.
func (c *localCluster) writeRegistryHosts(n node) error {
	if c.config.Registry == nil {
		return nil
	}
	dir := c.nodeFile(n, "registries", c.config.RegistryHost)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	url := "http://" + c.registryAddress()
	return writeFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %[1]q\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", url))
}

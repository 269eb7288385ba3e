package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/cgroup"
	"github.com/berthdev/berth/internal/cluster/local/network"
)

const (
	recordFile    = "cluster.json"
	recordVersion = 1
)

// record is what must be remembered about a cluster: what cannot be asked from it.
type record struct {
	Version  int
	ID       string
	Name     string
	Location string
	FQDN     string
	Network  cluster.Network
	Subnet   network.Subnet
	Nodes    []node // sorted by name
}

// node is one node, also while it is being made or removed.
type node struct {
	Name  string
	Index int // numbers its addresses; unique in the cluster while the node exists
	Pool  cluster.Pool
	// DrainUntil is set once the node is to go: pods have until then to leave.
	DrainUntil time.Time `json:",omitzero"`
}

// localCluster is one cluster during one call of a provider's method.
type localCluster struct {
	*Provider
	id     string
	key    string
	groups cgroup.Host
	record record
}

// cluster starts a call for one cluster. The key names the cluster where names are short.
func (p *Provider) cluster(id string) *localCluster {
	sum := sha256.Sum256([]byte(p.config.Installation + "\n" + id))
	return &localCluster{Provider: p, id: id, key: hex.EncodeToString(sum[:4])}
}

// file is the path of one of the cluster's files.
func (c *localCluster) file(elements ...string) string {
	return filepath.Join(append([]string{c.config.StateDir, "clusters", c.key}, elements...)...)
}

// runFile is the path of one of the files that a reboot removes.
func (c *localCluster) runFile(elements ...string) string {
	return filepath.Join(append([]string{runDir, c.key}, elements...)...)
}

func (c *localCluster) libexec(file string) string { return filepath.Join(c.config.LibexecDir, file) }

func (c *localCluster) load() error { return readJSON(c.file(recordFile), &c.record) }

func (c *localCluster) save() error { return writeFile(c.file(recordFile), mustJSON(c.record)) }

func (c *localCluster) endpoint() string {
	return fmt.Sprintf("https://%s:6443", c.record.Subnet.Hub())
}

// pods and services are valid: recordSpec checked them.
func (c *localCluster) pods() netip.Prefix { return netip.MustParsePrefix(c.record.Network.PodCIDR) }
func (c *localCluster) services() netip.Prefix {
	return netip.MustParsePrefix(c.record.Network.ServiceCIDR)
}

func (c *localCluster) podRange(n node) netip.Prefix {
	prefix, err := network.PodRange(c.pods(), n.Index)
	if err != nil {
		panic(err) // addNode gives no index without a range
	}
	return prefix
}

func (c *localCluster) hostLink() string { return "bth-" + c.key }

func (c *localCluster) network() network.Network {
	return network.Network{
		Folder:   c.runFile("net"),
		HostLink: c.hostLink(),
		Alias:    c.record.Name + " " + c.id,
		Subnet:   c.record.Subnet,
		Pods:     c.pods(),
		Services: c.services(),
	}
}

// recordSpec writes down what the spec wants: a new record, or the nodes to add and remove.
func (c *localCluster) recordSpec(spec cluster.Spec, exists bool) error {
	if !exists {
		if err := c.newRecord(spec); err != nil {
			return err
		}
	}
	if err := withHostLock(func() error { return network.Reclaim(claimDir, c.key, c.record.Subnet) }); err != nil {
		return err
	}
	before := mustJSON(c.record)
	if err := c.planNodes(spec); err != nil {
		return err
	}
	if string(before) == string(mustJSON(c.record)) {
		return nil
	}
	return c.save()
}

// claimDir holds the claims of networks, see network.Claim.
var claimDir = filepath.Join(runDir, "networks")

func (c *localCluster) newRecord(spec cluster.Spec) error {
	pods, err := parseRange("pod range", spec.Network.PodCIDR)
	if err != nil {
		return err
	}
	services, err := parseRange("service range", spec.Network.ServiceCIDR)
	if err != nil {
		return err
	}
	if dns, err := netip.ParseAddr(spec.Network.DNSServiceIP); err != nil || !services.Contains(dns) {
		return invalidNetwork("the DNS service IP %q is not an address in the service range %s", spec.Network.DNSServiceIP, services)
	}
	if pods.Overlaps(services) {
		return invalidNetwork("the pod range %s and the service range %s overlap", pods, services)
	}
	c.record = record{
		Version: recordVersion, ID: spec.ID, Name: spec.Name, Location: spec.Location, FQDN: spec.FQDN, Network: spec.Network,
	}
	err = withHostLock(func() (err error) {
		c.record.Subnet, err = network.Claim(claimDir, c.key, network.PreferredSubnet(c.id), pods, services)
		return err
	})
	if err != nil {
		return err
	}
	// Saved before anything else is made, see the package's invariant.
	if err := os.MkdirAll(c.file(), 0o700); err != nil {
		return err
	}
	return c.save()
}

func parseRange(what, text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || !prefix.Addr().Is4() || prefix.Masked() != prefix || prefix.Bits() > 24 {
		return netip.Prefix{}, invalidNetwork("the %s %q is not an IPv4 network of /24 or larger in CIDR notation, such as 10.244.0.0/16", what, text)
	}
	return prefix, nil
}

func invalidNetwork(format string, args ...any) error {
	return &cluster.Error{Kind: cluster.KindUser, Code: "InvalidNetworkProfile", Message: "The cluster's network cannot be made: " + fmt.Sprintf(format, args...) + "."}
}

// planNodes adds a node record for each missing node and marks surplus ones for removal.
func (c *localCluster) planNodes(spec cluster.Spec) error {
	wanted := map[string]bool{}
	for _, pool := range spec.Pools {
		for _, n := range c.record.Nodes {
			if n.Pool.Name == pool.Name {
				if err := cluster.CheckVMSize(pool, n.Pool.VMSize.Name); err != nil {
					return err
				}
			}
		}
		for number := range pool.Count {
			name := cluster.NodeName(c.id, pool.Name, number)
			wanted[name] = true
			if i := slices.IndexFunc(c.record.Nodes, func(n node) bool { return n.Name == name }); i >= 0 {
				c.record.Nodes[i].Pool = pool // its labels may have changed
			} else if err := c.addNode(name, pool); err != nil {
				return err
			}
		}
	}
	for i, n := range c.record.Nodes {
		switch {
		case wanted[n.Name]:
			c.record.Nodes[i].DrainUntil = time.Time{} // wanted again before it was gone
		case n.DrainUntil.IsZero():
			c.record.Nodes[i].DrainUntil = c.config.Now().Add(drainTime)
		}
	}
	return nil
}

func (c *localCluster) addNode(name string, pool cluster.Pool) error {
	index := 0
	for slices.ContainsFunc(c.record.Nodes, func(n node) bool { return n.Index == index }) {
		index++
	}
	if index >= network.MaxNodes {
		return &cluster.Error{
			Kind: cluster.KindUser, Code: "QuotaExceeded",
			Message: fmt.Sprintf("A local cluster has at most %d nodes; ask for fewer.", network.MaxNodes),
		}
	}
	if _, err := network.PodRange(c.pods(), index); err != nil {
		return invalidNetwork("%v", err)
	}
	c.record.Nodes = append(c.record.Nodes, node{Name: name, Index: index, Pool: pool})
	slices.SortFunc(c.record.Nodes, func(a, b node) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func readJSON(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", readablePath(file), err)
	}
	return nil
}

func mustJSON(v any) []byte {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // records hold only what encodes
	}
	return data
}

// writeFile replaces a file in one step, so that a crash leaves the old or the new one.
func writeFile(file string, data []byte) error {
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

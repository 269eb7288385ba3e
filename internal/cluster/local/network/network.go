package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridge    = "br0"
	uplink    = "up0" // the bridge's end of the link to the host
	nodeLink  = "eth0"
	aliasMark = "berth " // begins the description of the host's links

	// lastMetric ranks the black holes far behind every real route. Together with their
	// type it says that they are ours.
	lastMetric = 1 << 30
)

// Network is one cluster's network.
type Network struct {
	Folder   string // where the namespaces' files are
	HostLink string // name of the host's end of the link, at most 15 characters
	Alias    string // description of that link, for whoever looks at it
	Subnet   Subnet
	Pods     netip.Prefix
	Services netip.Prefix
}

// HubNamespace is the file of the control plane's namespace.
func (n Network) HubNamespace() string { return filepath.Join(n.Folder, "hub") }

// NodeNamespace is the file of a node's namespace.
func (n Network) NodeNamespace(index int) string {
	return filepath.Join(n.Folder, "node"+strconv.Itoa(index))
}

// Claim takes a subnet that neither the host nor another cluster of any installation
// uses, starting at the preferred one and leaving out what overlaps avoid. Claims are
// files in a folder that all installations share and that a reboot empties, as it does
// the networks; each holds its owner's key, so a repeated Claim finds its own again.
func Claim(folder, key string, preferred Subnet, avoid ...netip.Prefix) (Subnet, error) {
	if owned, found, err := claimed(folder, key); found || err != nil {
		return owned, err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, route := range routes {
		// Black holes of ours may overlap anything; their owners' claims are what counts.
		if used, ok := netipPrefix(route.Dst); ok && used.Bits() > 0 && route.Priority < lastMetric {
			avoid = append(avoid, used)
		}
	}
next:
	for i := range Subnet(Subnets) {
		subnet := (preferred + i) % Subnets
		for _, used := range avoid {
			if used.Overlaps(subnet.Range()) {
				continue next
			}
		}
		switch err := subnet.take(folder, key); {
		case err == nil:
			return subnet, nil
		case !errors.Is(err, fs.ErrExist):
			return 0, fmt.Errorf("claim the network %s: %w", subnet.Range(), err)
		}
	}
	return 0, errors.New("every network from 10.192.0.0/24 to 10.223.255.0/24 is in use on this machine; delete a cluster, or free the routes that cover them")
}

// Reclaim takes back the subnet that a cluster had before a reboot.
func Reclaim(folder, key string, subnet Subnet) error {
	owned, err := Claim(folder, key, subnet)
	if err == nil && owned != subnet {
		err = errors.Join(
			fmt.Errorf("the cluster's network %s is now used by something else on this machine; delete that, or delete and create the cluster", subnet.Range()),
			os.Remove(owned.claimFile(folder)))
	}
	return err
}

func claimed(folder, key string) (Subnet, bool, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, false, fmt.Errorf("read the claims of networks: %w", err)
	}
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		owner, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err == nil && string(owner) == key {
			return Subnet(number), true, nil
		}
	}
	return 0, false, nil
}

// metric tells the black holes of different clusters apart: several may use the same
// pod and service ranges.
func (s Subnet) metric() int { return lastMetric + int(s) }

func (s Subnet) claimFile(folder string) string { return filepath.Join(folder, strconv.Itoa(int(s))) }

// take makes the claim's file with its content in one step; it fails with fs.ErrExist when
// the subnet is taken.
func (s Subnet) take(folder, key string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	draft := filepath.Join(folder, "draft-"+key)
	if err := os.WriteFile(draft, []byte(key), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Link(draft, s.claimFile(folder)), os.Remove(draft))
}

// Ensure makes whatever is missing of the hub: the claim and the black holes first.
func (n Network) Ensure() error {
	for _, route := range n.blackHoles() {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("keep %s inside the machine: %w", route.Dst, err)
		}
	}
	if err := createNamespace(n.HubNamespace()); err != nil {
		return err
	}
	if err := Do(n.HubNamespace(), n.setUpBridge); err != nil {
		return fmt.Errorf("set up the control plane's network: %w", err)
	}
	if err := n.connectHost(); err != nil {
		return fmt.Errorf("connect the host: %w", err)
	}
	return nil
}

func (n Network) setUpBridge() error {
	if _, err := setUp("lo"); err != nil {
		return err
	}
	attrs := attributes(bridge)
	// Without an address of its own, a bridge takes one of its ports', and another one when
	// that node goes: the host and the nodes then talk to nobody until their tables expire.
	attrs.HardwareAddr = n.Subnet.hardwareAddress()
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make the bridge: %w", err)
	}
	link, err := setUp(bridge)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, address(n.Subnet.Hub(), 24)); err != nil {
		return fmt.Errorf("give the bridge its address: %w", err)
	}
	// Nodes send what is for other nodes' pods here. What no node has ends here.
	for _, prefix := range []netip.Prefix{n.Pods, n.Services} {
		if err := netlink.RouteReplace(n.blackHole(prefix)); err != nil {
			return fmt.Errorf("route %s: %w", prefix, err)
		}
	}
	return setSysctls(map[string]string{"ip_forward": "1", "conf/all/send_redirects": "0", "conf/" + bridge + "/send_redirects": "0"})
}

func (n Network) connectHost() error {
	if _, err := netlink.LinkByName(n.HostLink); err != nil {
		if err := addVeth(n.HostLink, uplink, n.HubNamespace()); err != nil {
			return err
		}
	}
	link, err := setUp(n.HostLink)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, aliasMark+n.Alias); err != nil {
		return fmt.Errorf("describe link %s: %w", n.HostLink, err)
	}
	if err := netlink.AddrReplace(link, address(n.Subnet.Host(), 24)); err != nil {
		return fmt.Errorf("give link %s its address: %w", n.HostLink, err)
	}
	return Do(n.HubNamespace(), func() error { return joinBridge(uplink) })
}

// Connected says whether the host has its link to the cluster. Without it, the cluster's
// addresses are not the cluster's, and nobody may be asked there.
func Connected(hostLink string) bool {
	_, err := netlink.LinkByName(hostLink)
	return err == nil
}

// EnsureNode makes whatever is missing of a node's network and routes its pods' range to it.
func (n Network) EnsureNode(index int, pods netip.Prefix) error {
	namespace := n.NodeNamespace(index)
	if err := createNamespace(namespace); err != nil {
		return err
	}
	port := "node" + strconv.Itoa(index)
	err := Do(n.HubNamespace(), func() error {
		if _, err := netlink.LinkByName(port); err != nil {
			if err := addVeth(port, nodeLink, namespace); err != nil {
				return err
			}
		}
		if err := joinBridge(port); err != nil {
			return err
		}
		if err := netlink.RouteReplace(n.podRoute(index, pods)); err != nil {
			return fmt.Errorf("route %s: %w", pods, err)
		}
		return nil
	})
	if err == nil {
		err = Do(namespace, func() error { return n.setUpNode(index) })
	}
	if err != nil {
		return fmt.Errorf("set up the network of node %d: %w", index, err)
	}
	return nil
}

func (n Network) podRoute(index int, pods netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(pods), Gw: n.Subnet.Node(index).AsSlice(), Priority: 1}
}

func (n Network) setUpNode(index int) error {
	if _, err := setUp("lo"); err != nil {
		return err
	}
	link, err := setUp(nodeLink)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, address(n.Subnet.Node(index), 24)); err != nil {
		return fmt.Errorf("give the node its address: %w", err)
	}
	for _, prefix := range []netip.Prefix{n.Pods, n.Services} {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(prefix), Gw: n.Subnet.Hub().AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s: %w", prefix, err)
		}
	}
	return setSysctls(map[string]string{"ip_forward": "1"})
}

// RemoveNode removes a node's network and the route of its pods' range.
func (n Network) RemoveNode(index int, pods netip.Prefix) error {
	if isNamespace(n.HubNamespace()) {
		err := Do(n.HubNamespace(), func() error {
			if err := netlink.RouteDel(n.podRoute(index, pods)); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("remove the route of %s: %w", pods, err)
			}
			return deleteLink("node" + strconv.Itoa(index))
		})
		if err != nil {
			return err
		}
	}
	return removeNamespace(n.NodeNamespace(index))
}

// Remove removes everything of the cluster with a key: links and namespaces first, then
// the black holes, and the claim last. It needs no Network, because whoever would know
// one may have lost it; the claim says which routes are the cluster's.
func Remove(folder, hostLink, claims, key string) error {
	if err := deleteLink(hostLink); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := removeNamespace(file); err != nil {
			return err
		}
	}
	subnet, found, err := claimed(claims, key)
	if !found || err != nil {
		return err
	}
	routes, err := subnet.blackHoles()
	if err != nil {
		return err
	}
	for _, route := range routes {
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("remove the route of %s: %w", route.Dst, err)
		}
	}
	return os.Remove(subnet.claimFile(claims))
}

// blackHoles lists the host's black holes that belong to a subnet.
func (s Subnet) blackHoles() ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Type: unix.RTN_BLACKHOLE}, netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	// The library cannot filter by metric. Other clusters' routes must not get through.
	return slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Priority != s.metric() }), nil
}

func (n Network) blackHoles() []*netlink.Route {
	return []*netlink.Route{
		n.blackHole(n.Subnet.Range()), n.blackHole(n.Pods), n.blackHole(n.Services),
	}
}

func (n Network) blackHole(prefix netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(prefix), Type: unix.RTN_BLACKHOLE, Priority: n.Subnet.metric()}
}

// addVeth makes a pair of links, the peer of which is in another namespace.
func addVeth(name, peer, namespace string) error {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", namespace, err)
	}
	defer unix.Close(fd)
	veth := &netlink.Veth{LinkAttrs: attributes(name), PeerName: peer, PeerNamespace: netlink.NsFd(fd)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", name, err)
	}
	return nil
}

func joinBridge(name string) error {
	link, err := setUp(name)
	if err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find the bridge: %w", err)
	}
	if link.Attrs().MasterIndex == master.Attrs().Index {
		return nil
	}
	if err := netlink.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("plug link %s into the bridge: %w", name, err)
	}
	return nil
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func attributes(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func address(ip netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func netipPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), bits), ok
}

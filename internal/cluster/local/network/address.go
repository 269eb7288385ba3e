// Package network gives each local cluster a network of its own: namespaces for the
// control plane and for each node, a bridge between them, and one link to the host. It
// knows nothing about Kubernetes.
//
//	host ──── veth ──── bridge in the hub namespace (control plane)
//	                      ├── veth ── node namespace 0
//	                      └── veth ── node namespace 1 …
//
// The one invariant: nothing in a cluster's ranges ever leaves through the machine's own
// interfaces. Nodes have no default route; the host has black holes for the ranges, which
// are made first and removed last.
package network

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
)

// Subnets numbers the machine networks that clusters can have: 10.192.0.0/24 to
// 10.223.255.0/24. Services get loopback addresses with the same numbers, so that one
// claim covers both.
const Subnets = 32 * 256

// Subnet is one of those numbers.
type Subnet int

// PreferredSubnet is where a cluster starts looking for a free subnet.
func PreferredSubnet(clusterID string) Subnet {
	h := fnv.New32a()
	h.Write([]byte(clusterID))
	return Subnet(h.Sum32() % Subnets)
}

func (s Subnet) octets() (byte, byte) { return byte(192 + s/256), byte(s % 256) }

// Range is the network of the cluster's machines.
func (s Subnet) Range() netip.Prefix { return netip.PrefixFrom(s.address(0), 24) }

// Services is the range of the host's loopback network for LoadBalancer services.
func (s Subnet) Services() netip.Prefix {
	x, y := s.octets()
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, x, y, 0}), 24)
}

func (s Subnet) address(last byte) netip.Addr {
	x, y := s.octets()
	return netip.AddrFrom4([4]byte{10, x, y, last})
}

// Host is the host's address in the cluster's network.
func (s Subnet) Host() netip.Addr { return s.address(1) }

// Hub is the control plane's address.
func (s Subnet) Hub() netip.Addr { return s.address(2) }

// hardwareAddress is the bridge's, from the range for local use.
func (s Subnet) hardwareAddress() net.HardwareAddr {
	x, y := s.octets()
	return net.HardwareAddr{0x02, 0xbe, 0, x, y, 2}
}

// firstNode leaves room for more fixed addresses.
const firstNode = 10

// MaxNodes is how many nodes a cluster's network has addresses for.
const MaxNodes = 200

// Node is the address of the node with an index in [0, MaxNodes).
func (s Subnet) Node(index int) netip.Addr { return s.address(byte(firstNode + index)) }

// PodRange is the index-th /24 of a cluster's pod range.
func PodRange(pods netip.Prefix, index int) (netip.Prefix, error) {
	if !pods.Addr().Is4() || pods.Bits() > 24 || index >= 1<<(24-pods.Bits()) {
		return netip.Prefix{}, fmt.Errorf("the pod range %s has no room for %d nodes: each takes a /24 of it", pods, index+1)
	}
	base := pods.Masked().Addr().As4()
	number := binary.BigEndian.Uint32(base[:]) + uint32(index)<<8
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], number)
	return netip.PrefixFrom(netip.AddrFrom4(address), 24), nil
}

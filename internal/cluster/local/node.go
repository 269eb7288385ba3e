package local

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// nodeFile is the path of one of a node's files.
func (c *localCluster) nodeFile(n node, elements ...string) string {
	return c.file(append([]string{"nodes", n.Name}, elements...)...)
}

// nodeRunFile is the path of one of a node's files that a reboot removes.
func (c *localCluster) nodeRunFile(n node, elements ...string) string {
	return c.runFile(append([]string{"n" + strconv.Itoa(n.Index)}, elements...)...)
}

func (c *localCluster) address(n node) string { return c.record.Subnet.Node(n.Index).String() }

func (c *localCluster) socket(n node) string { return c.nodeRunFile(n, "containerd.sock") }

// kubeletDir is the kubelet's root folder. Another could be chosen, but not for all that
// it does, and sockets' paths would become too long.
const kubeletDir = "/var/lib/kubelet"

// hostFolders are folders that the kubelet uses by fixed paths. Each node sees its own
// there; the host's, and those of a kubelet that the host may run, are not touched.
var hostFolders = map[string]string{kubeletDir: "kubelet", "/var/log/containers": "containers"}

// startNode makes a node's network, files and control group, and starts its processes.
func (c *localCluster) startNode(n node, running []proc.Process) error {
	if err := c.network().EnsureNode(n.Index, c.podRange(n)); err != nil {
		return err
	}
	if err := c.ensureNodeCertificates(n); err != nil {
		return fmt.Errorf("make the certificates: %w", err)
	}
	if err := c.writeNodeFiles(n); err != nil {
		return err
	}
	if err := c.writeRegistryHosts(n); err != nil {
		return err
	}
	if err := c.groups.Create(c.nodeGroup(n, "system")); err != nil {
		return err
	}
	if err := c.groups.Limit(c.nodeGroup(n), n.Pool.VMSize.VCPUs, n.Pool.VMSize.MemoryMiB); err != nil {
		return err
	}
	mounts := c.mounts(n, running)
	for _, p := range c.nodePrograms(n) {
		if _, found := p.find(running); found {
			continue
		}
		p.Mounts = &mounts
		pid, err := c.run(p)
		if err != nil {
			return err
		}
		mounts.Join = pid // the first one makes the node's mounts, the others share them
	}
	return nil
}

// mounts are those of any process that the node has, shims included: containers' file
// systems are mounted there.
func (c *localCluster) mounts(n node, running []proc.Process) proc.Mounts {
	for _, r := range running {
		if strings.HasPrefix(r.Name, n.Name+"/") {
			return proc.Mounts{Join: r.PID}
		}
	}
	m := proc.Mounts{Binds: map[string]string{}}
	for target, own := range hostFolders {
		m.Binds[target] = c.nodeFile(n, own)
	}
	return m
}

func (c *localCluster) nodePrograms(n node) []program {
	in := func(name string, env []string, args ...string) program {
		return program{group: c.nodeGroup(n, "system"), Spec: proc.Spec{
			Mark: proc.Mark{Name: n.process(name)}, Args: args, Env: env, Network: c.network().NodeNamespace(n.Index),
		}}
	}
	kube := c.libexec("berth-kube")
	return []program{
		in("containerd", []string{collectOften, "PATH=" + c.config.LibexecDir + ":/usr/sbin:/usr/bin:/sbin:/bin"},
			c.libexec("containerd"), "--config="+c.nodeFile(n, "containerd.toml")),
		in("kubelet", nil, append([]string{kube, "kubelet"}, c.kubeletFlags(n)...)...),
		in("proxy", await(c.nodeFile(n, "pki", "proxy.kubeconfig")), kube, "proxy", "--config="+c.nodeFile(n, "proxy.yaml")),
	}
}

func (c *localCluster) kubeletFlags(n node) []string {
	labels := cluster.NodeLabels(c.record.Location, n.Pool)
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return []string{
		"--config=" + c.nodeFile(n, "kubelet.yaml"), "--kubeconfig=" + c.nodeFile(n, "pki", "kubelet.kubeconfig"),
		"--hostname-override=" + n.Name, "--node-ip=" + c.address(n), "--node-labels=" + strings.Join(pairs, ","),
		"--root-dir=" + kubeletDir, "--cert-dir=" + c.nodeFile(n, "pki"), "--images=" + c.libexec("images"),
		"--machine-cores=" + strconv.Itoa(n.Pool.VMSize.VCPUs), "--machine-memory-mib=" + strconv.FormatInt(n.Pool.VMSize.MemoryMiB, 10),
	}
}

// writeNodeFiles writes the configuration of a node's programs.
func (c *localCluster) writeNodeFiles(n node) error {
	folders := []string{c.nodeFile(n, "logs"), c.nodeFile(n, "cni"), c.nodeRunFile(n)}
	for _, own := range hostFolders {
		folders = append(folders, c.nodeFile(n, own))
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	files := map[string][]byte{
		"containerd.toml":                      c.containerdConfig(n),
		filepath.Join("cni", "berth.conflist"): c.cniConfig(n),
	}
	for name, config := range map[string]any{"kubelet.yaml": c.kubeletConfig(n), "proxy.yaml": c.proxyConfig(n)} {
		data, err := yaml.Marshal(config)
		if err != nil {
			return err
		}
		files[name] = data
	}
	for name, data := range files {
		if err := writeFile(c.nodeFile(n, name), data); err != nil {
			return err
		}
	}
	return nil
}

// containerdConfig keeps everything of a node's containerd to the node.
func (c *localCluster) containerdConfig(n node) []byte {
	return fmt.Appendf(nil, `version = 3
root = %[1]q
state = %[2]q
imports = []
disabled_plugins = [
  "io.containerd.nri.v1.nri", "io.containerd.monitor.container.v1.restart", "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.differ.v1.erofs", "io.containerd.image-verifier.v1.bindir",
]
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[plugins."io.containerd.metadata.v1.bolt"]
  no_sync = true
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = %[5]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[6]q
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "berth.dev/pause:1"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = %[11]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[7]q]
  conf_dir = %[8]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = %[9]q
  Root = %[10]q
`, c.nodeFile(n, "containerd"), c.nodeRunFile(n, "containerd"), c.socket(n), c.socket(n)+".ttrpc", c.nodeRunFile(n, "s"),
		c.nodeFile(n, "opt"), c.libexec("cni"), c.nodeFile(n, "cni"), c.libexec("runc"), c.nodeRunFile(n, "runc"),
		c.nodeFile(n, "registries"))
}

// cniConfig gives pods addresses of the node's range. Pods of all nodes reach each other
// without address translation, as Kubernetes requires.
func (c *localCluster) cniConfig(n node) []byte {
	return mustJSON(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "berth",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
				"ipam": map[string]any{
					"type":    "host-local",
					"ranges":  [][]any{{map[string]any{"subnet": c.podRange(n).String()}}},
					"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
					"dataDir": c.nodeRunFile(n, "ipam"),
				},
			},
		},
	})
}

func (c *localCluster) kubeletConfig(n node) map[string]any {
	maxPods := n.Pool.MaxPods
	if maxPods == 0 {
		maxPods = cluster.DefaultMaxPods
	}
	return map[string]any{
		"apiVersion":     "kubelet.config.k8s.io/v1beta1",
		"kind":           "KubeletConfiguration",
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": c.pkiFile(clusterAuthority + ".crt")}},
		"authorization":  map[string]any{"mode": "Webhook"},
		"tlsCertFile":    c.nodeFile(n, "pki", "kubelet.crt"), "tlsPrivateKeyFile": c.nodeFile(n, "pki", "kubelet.key"),
		"containerRuntimeEndpoint": "unix://" + c.socket(n),
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + c.nodeGroup(n),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"makeIPTablesUtilChains":   false,
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{c.record.Network.DNSServiceIP},
		"resolvConf":               "", // nodes have no resolver of their own
		"maxPods":                  maxPods,
		"registerWithTaints":       taints(n.Pool.Taints),
		"podLogsDir":               c.nodeFile(n, "logs"),
		"volumePluginDir":          kubeletDir + "/volume-plugins",
		"oomScoreAdj":              0, // a lower one takes a capability that containers lack
		// The images cannot be fetched again, and the disk is the host's: its owner sees to it.
		"imageGCHighThresholdPercent": 100,
		"evictionHard":                map[string]string{"memory.available": "100Mi", "nodefs.available": "256Mi", "imagefs.available": "256Mi"},
		"containerLogMaxSize":         "10Mi",
		"logging":                     map[string]any{"verbosity": 1},
	}
}

func (c *localCluster) proxyConfig(n node) map[string]any {
	return map[string]any{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"clientConnection": map[string]any{"kubeconfig": c.nodeFile(n, "pki", "proxy.kubeconfig")},
		"hostnameOverride": n.Name,
		"clusterCIDR":      c.record.Network.PodCIDR,
		"bindAddress":      c.address(n),
		"oomScoreAdj":      0,
		// The table of connections is the host's to size.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

// taints reads AKS's form, key=value:Effect.
func taints(texts []string) []corev1.Taint {
	list := []corev1.Taint{}
	for _, text := range texts {
		keyValue, effect, _ := strings.Cut(text, ":")
		key, value, _ := strings.Cut(keyValue, "=")
		list = append(list, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return list
}

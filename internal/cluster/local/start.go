package local

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// program is a process that a cluster must have.
type program struct {
	proc.Spec
	group string // control group
}

// processes lists the cluster's processes.
func (c *localCluster) processes() ([]proc.Process, error) {
	all, err := proc.List(c.config.Installation)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p proc.Process) bool { return p.Cluster != c.id }), nil
}

// find returns the process that a program runs as. Children inherit the mark, so the
// executable has to be the program's, too.
func (p program) find(running []proc.Process) (proc.Process, bool) {
	i := slices.IndexFunc(running, func(r proc.Process) bool {
		return r.Name == p.Name && r.Program == filepath.Base(p.Args[0])
	})
	if i < 0 {
		return proc.Process{}, false
	}
	return running[i], true
}

// start makes the network, the files and every process that is missing. It takes tens of
// milliseconds and waits for nothing.
func (c *localCluster) start(ctx context.Context) error {
	if err := c.ensureCertificates(); err != nil {
		return fmt.Errorf("make the certificates: %w", err)
	}
	if err := c.makeShared(); err != nil {
		return err
	}
	if err := c.network().Ensure(); err != nil {
		return err
	}
	running, err := c.processes()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.file("logs"), 0o700); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, program := range c.controlPlane() {
		group.Go(func() error { return c.ensureRunning(program, running) })
	}
	for _, n := range c.record.Nodes {
		group.Go(func() error {
			if err := c.startNode(n, running); err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (c *localCluster) ensureRunning(p program, running []proc.Process) error {
	if _, found := p.find(running); found {
		return nil
	}
	_, err := c.run(p)
	return err
}

func (c *localCluster) run(p program) (pid int, err error) {
	p.Installation, p.Cluster = c.config.Installation, c.id
	p.Log = c.logFile(p.Name)
	if pid, err = proc.Start(p.Spec); err != nil {
		return 0, err
	}
	c.config.Logger.Info("started a cluster's process", "cluster", c.record.Name, "process", p.Name, "pid", pid)
	return pid, c.groups.Add(p.group, pid)
}

func (c *localCluster) logFile(process string) string {
	return c.file("logs", strings.ReplaceAll(process, "/", "-")+".log")
}

// group is the path of one of the cluster's control groups.
func (c *localCluster) group(elements ...string) string {
	return path.Join(append([]string{topGroup, c.key}, elements...)...)
}

// collectOften is for Go programs that are not ours: memory is what a further node costs.
// berth-kube sees to itself.
const collectOften = "GOGC=50"

// await makes a component of berth-kube wait for the API server as the user of a
// kubeconfig file.
func await(kubeconfig string) []string { return []string{"BERTH_AWAIT=" + kubeconfig} }

// controlPlane is what runs in the hub's network, and the cloud controller, which has to
// listen on the host's loopback addresses.
func (c *localCluster) controlPlane() []program {
	in := func(name, network string, env []string, args ...string) program {
		return program{group: c.group("control"), Spec: proc.Spec{Mark: proc.Mark{Name: name}, Args: args, Env: env, Network: network}}
	}
	hub, kube := c.network().HubNamespace(), c.libexec("berth-kube")
	controllers, scheduler, cloud := c.pkiFile("controller-manager.kubeconfig"), c.pkiFile("scheduler.kubeconfig"), c.pkiFile("cloud-controller.kubeconfig")
	return []program{
		in("etcd", hub, []string{collectOften}, append([]string{c.libexec("etcd")}, c.etcdFlags()...)...),
		in("apiserver", hub, nil, append([]string{kube, "apiserver"}, c.apiServerFlags()...)...),
		in("controller-manager", hub, await(controllers), append([]string{kube, "controller-manager"}, c.controllerManagerFlags()...)...),
		in("scheduler", hub, await(scheduler), kube, "scheduler", "--kubeconfig="+scheduler, "--leader-elect=false", "--bind-address=127.0.0.1"),
		in("cloud-controller", "", await(cloud), kube, "cloud-controller", "--kubeconfig="+cloud, "--addresses="+c.record.Subnet.Services().String()),
	}
}

// etcdFlags: the data need not survive a power cut of the machine, and without fsync a
// cluster starts in half the time.
func (c *localCluster) etcdFlags() []string {
	return []string{
		"--name=default", "--data-dir=" + c.file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
	}
}

func (c *localCluster) apiServerFlags() []string {
	hub := c.record.Subnet.Hub().String()
	issuer := "https://kubernetes.default.svc.cluster.local"
	return []string{
		"--advertise-address=" + hub, "--secure-port=6443", "--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + c.record.Network.ServiceCIDR, "--allow-privileged=true",
		"--tls-cert-file=" + c.pkiFile("apiserver.crt"), "--tls-private-key-file=" + c.pkiFile("apiserver.key"),
		"--client-ca-file=" + c.pkiFile(clusterAuthority+".crt"), "--anonymous-auth=false",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--encryption-provider-config=" + c.pkiFile("encryption.yaml"),
		"--service-account-issuer=" + issuer, "--service-account-key-file=" + c.pkiFile("service-account.key"),
		"--service-account-signing-key-file=" + c.pkiFile("service-account.key"),
		// Names of nodes resolve nowhere, and what a kubelet serves is signed by the same authority.
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority=" + c.pkiFile(clusterAuthority+".crt"),
		"--kubelet-client-certificate=" + c.pkiFile("kubelet-client.crt"), "--kubelet-client-key=" + c.pkiFile("kubelet-client.key"),
		// The hub has no kube-proxy: webhooks and aggregated APIs are called at their pods.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file=" + c.pkiFile(frontProxyAuthority+".crt"), "--requestheader-allowed-names=" + frontProxyUser.CommonName,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.pkiFile("front-proxy-client.crt"), "--proxy-client-key-file=" + c.pkiFile("front-proxy-client.key"),
		// One user's cluster needs no fair shares between users, nor profiles.
		"--enable-priority-and-fairness=false", "--profiling=false",
	}
}

func (c *localCluster) controllerManagerFlags() []string {
	return []string{
		"--kubeconfig=" + c.pkiFile("controller-manager.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--root-ca-file=" + c.pkiFile(clusterAuthority+".crt"), "--service-account-private-key-file=" + c.pkiFile("service-account.key"),
		"--cluster-signing-cert-file=" + c.pkiFile(clusterAuthority+".crt"), "--cluster-signing-key-file=" + c.pkiFile(clusterAuthority+".key"),
		"--allocate-node-cidrs=false", "--profiling=false", "--kube-api-qps=100", "--kube-api-burst=200",
	}
}

// names of a node's processes: the node's name, a slash and the program's.
func (n node) process(name string) string { return n.Name + "/" + name }

func (c *localCluster) nodeGroup(n node, elements ...string) string {
	return c.group(append([]string{"n" + strconv.Itoa(n.Index)}, elements...)...)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// work is where everything writes: a file system in memory that goes with the namespace.
const work = "/run/bench"

// inNamespaces runs this program as the first process of a process namespace, so that all it starts
// ends with it, with a network of its own.
func inNamespaces(ctx context.Context, args []string) error {
	runtime.LockOSThread() // Pdeathsig goes by the thread
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	measured, others, err := processors()
	if err != nil {
		return err
	}
	awake, err := keepAwake()
	if err != nil {
		return err
	}
	defer func() { _ = awake.Close() }() // nothing was written that could be lost
	// The load and pods go before all that shares their processors. An agent that worked for 4 ms once a second, as there was one here,
	// otherwise delayed half a hundredth of all requests, and more with what piled up behind them.
	c := exec.CommandContext(ctx, "taskset", append([]string{"-c", others, "chrt", "--rr", "1", self, "-inside=" + measured}, args...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL, Setsid: true}
	return c.Run()
}

// keepAwake has processors wait for work without going to sleep, until the file is closed. A virtual machine's processor that sleeps runs again
// when the host comes to it: here that took up to 40 ms, and longer the less there was to do.
func keepAwake() (io.Closer, error) {
	f, err := os.OpenFile("/dev/cpu_dma_latency", os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) { // its kernel knows nothing of it
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(make([]byte, 4)) // 0 µs
	return f, err
}

// network is where pods and the front end have their addresses: all of it is this machine.
const network = "10.77.0.1/16"

func setUp() error {
	err := errors.Join(
		syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("proc", "/proc", "proc", 0, ""),
		syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		// BBR, which some machines have instead of Linux's own default, sends large bodies in pieces by timers, out of order, and as good as
		// nothing for 200 ms in each ten seconds. That suits long ways, which there are none of here. Every namespace may have Reno.
		os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0o644),
		os.Mkdir(work, 0o755),
	)
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(network)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr))
}

// processes are ended in the opposite order of their start.
type processes struct {
	measured string // processors of what is measured, as taskset wants them
	all      []*process
}

type process struct {
	name string
	cmd  *exec.Cmd
}

// processors are those of what is measured, and those of the load, pods and the cluster, as taskset wants them. Elsewhere these would not be
// on its machine; here, when they had the same, it waited for them to end their turns, and they for it.
func processors() (measured, others string, err error) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return "", "", os.NewSyscallError("sched_getaffinity", err)
	}
	var all []string
	for n := 0; len(all) < may.Count(); n++ {
		if may.IsSet(n) {
			all = append(all, strconv.Itoa(n))
		}
	}
	half := len(all) / 2
	if half == 0 {
		return "", "", errors.New("this takes two processors: one for what is measured, and one for the load and the pods")
	}
	return strings.Join(all[:half], ","), strings.Join(all[half:], ","), nil
}

// aside starts a program that is neither measured nor part of the load. It has what those leave of the load's processors.
func (p *processes) aside(name string, args ...string) (*process, error) {
	return p.start(name, nil, append([]string{"chrt", "--other", "0"}, args...)...)
}

// apart starts a program that is measured. It is no real-time process: the threads of one give way to each other only every 100 ms, and Go's
// runtime counts on some of them being heard at once.
func (p *processes) apart(name string, env []string, args ...string) (*process, error) {
	return p.start(name, env, append([]string{"chrt", "--other", "0", "taskset", "-c", p.measured}, args...)...)
}

func (p *processes) start(name string, env []string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(work, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own handle
	c := exec.Command(args[0], args[1:]...)
	c.Env, c.Dir, c.Stdout, c.Stderr = append(os.Environ(), env...), work, log, log
	if err := c.Start(); err != nil {
		return nil, err
	}
	started := &process{name: name, cmd: c}
	p.all = append(p.all, started)
	return started, nil
}

func (p *processes) end() {
	for _, started := range slices.Backward(p.all) {
		started.end()
	}
	p.all = nil
}

func (p *process) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// signal sends a process and its children a signal.
func (p *process) signal(s syscall.Signal) {
	for _, pid := range p.tree() {
		if n, err := strconv.Atoi(pid); err == nil {
			_ = syscall.Kill(n, s)
		}
	}
}

// log is the end of what a process wrote.
func (p *process) log() string {
	data, _ := os.ReadFile(filepath.Join(work, p.name+".log"))
	return string(data[max(0, len(data)-2000):])
}

// tree is a process and its children, nginx's workers.
func (p *process) tree() []string {
	pid := strconv.Itoa(p.cmd.Process.Pid)
	pids := []string{pid}
	data, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	return append(pids, strings.Fields(string(data))...)
}

// cpu is the processor time used so far.
func (p *process) cpu() time.Duration {
	const ticks = 100 // a second, on every Linux
	total := 0
	for _, pid := range p.tree() {
		data, _ := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			total += user + system
		}
	}
	return time.Duration(total) * time.Second / ticks
}

// memory is the resident set in MiB. Pages that nginx's processes share count once.
func (p *process) memory() float64 {
	total, field := 0.0, "Rss:"
	pids := p.tree()
	if len(pids) > 1 {
		field = "Pss:"
	}
	for _, pid := range pids {
		data, _ := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == field {
				kib, _ := strconv.ParseFloat(f[1], 64)
				total += kib / 1024
			}
		}
	}
	return total
}

// until waits for something.
func until(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func listens(addr string) func() bool {
	return func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}
}

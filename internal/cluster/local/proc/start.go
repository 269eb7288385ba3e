package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/cluster/local/thread"
)

// Spec is a process to start.
type Spec struct {
	Mark
	Args    []string // Args[0] is the program's path
	Env     []string // beside the mark and PATH
	Log     string   // file that output is appended to
	Network string   // file of the network namespace; empty means the host's
	Mounts  *Mounts  // nil means the host's
}

// Mounts is the mount namespace of a process: that of a running one, or a new one.
type Mounts struct {
	Join  int               // ID of the process whose mounts it shares; 0 means a new namespace
	Binds map[string]string // in a new namespace: what appears at which existing folder
}

// path is where the programs find mount, nft and the like.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Start starts a process in a session of its own, so that it outlives the caller. From its return on List has it.
func Start(s Spec) (pid int, err error) {
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open the log of %s: %w", s.Name, err)
	}
	defer log.Close()
	command := exec.Command(s.Args[0], s.Args[1:]...)
	command.Env = append(append([]string{path}, s.Env...), s.environment()...)
	command.Stdout, command.Stderr = log, log
	command.Dir = "/"
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true}

	// The child gets the namespaces of the thread that forks it.
	err = thread.Spend(func() error {
		if err := s.enter(); err != nil {
			return err
		}
		return command.Start()
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", s.Name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait() // reaps it; whoever asks sees from List that it is gone
	}()
	awaitEnvironment(command.Process.Pid, ended)
	return command.Process.Pid, nil
}

// awaitEnvironment returns when List can see a new process, or it has ended. The kernel says that a program was
// started a moment before it shows the program's environment, and who looked in between would start a second one.
func awaitEnvironment(pid int, ended <-chan struct{}) {
	for {
		environment, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil || len(environment) > 0 {
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func (s Spec) enter() error {
	if s.Network != "" {
		if err := setns(s.Network, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", s.Network, err)
		}
	}
	if s.Mounts == nil {
		return nil
	}
	// A thread that shares its file system attributes with others may not change namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the shared file system attributes: %w", err)
	}
	if s.Mounts.Join != 0 {
		if err := setns("/proc/"+strconv.Itoa(s.Mounts.Join)+"/ns/mnt", unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("share the mounts of process %d: %w", s.Mounts.Join, err)
		}
		return nil
	}
	return s.Mounts.create()
}

// create makes a mount namespace that sees the host's mounts and shows it none.
func (m *Mounts) create() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// First cut off from the host, then shared again inside: containers that ask for
	// mount propagation get it from the node, not from the host.
	for _, propagation := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|propagation, ""); err != nil {
			return fmt.Errorf("separate the mounts: %w", err)
		}
	}
	for target, source := range m.Binds {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", source, target, err)
		}
	}
	return nil
}

func setns(file string, kind int) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(fd, kind), unix.Close(fd))
}

package image

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// pipesAfter is how long after the end of a child what it started may keep the child's pipes open.
const pipesAfter = 5 * time.Second

// begin starts a child that ends with its context, and with this process however that ends, so that nothing writes into
// folders that the next start cleans. wait has to be called once; it returns what cmd.Wait does.
func begin(cmd *exec.Cmd) (wait func() error, err error) {
	// A group of its own, so that the end of the context reaches also what the child started: uv runs Python.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = pipesAfter
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The kernel sends the signal when the thread ends that forked the child, and threads of this process do end:
		// those that changed their namespaces. So a goroutine holds the thread until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-ended
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return func() error {
		defer close(ended)
		return cmd.Wait()
	}, nil
}

// run is begin and wait.
func run(cmd *exec.Cmd) error {
	wait, err := begin(cmd)
	if err != nil {
		return err
	}
	return wait()
}

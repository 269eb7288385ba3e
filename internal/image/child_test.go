package image

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// role tells this test's program what to be when it is started again.
const role = "BERTH_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "berth": // begins a child and says which
		_ = os.Setenv(role, "uv")
		if _, err := begin(again(context.Background())); err != nil {
			fmt.Println(err)
		}
		select {}
	case "uv": // starts Python, which says who it is and holds the pipes
		_ = os.Setenv(role, "python")
		cmd := again(context.Background())
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		fmt.Println(os.Getpid())
		fmt.Println(cmd.Run())
	case "python":
		fmt.Println(os.Getpid())
		time.Sleep(time.Minute) // in which the test has long ended
	default:
		os.Exit(m.Run())
	}
}

// again is this test's program once more, which writes to this process's output.
func again(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// pidFrom reads the ID of a process from a line.
func pidFrom(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// runs tells whether a process runs; one that only waits for its parent to look does not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func awaitEnd(t *testing.T, what string, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runs(pid); time.Sleep(time.Millisecond) { // polling the kernel
		if time.Now().After(deadline) {
			t.Fatalf("%s goes on", what)
		}
	}
}

// onThreadThatEnds returns when do has returned, and the thread on which it ran is gone.
func onThreadThatEnds(do func()) {
	hold, tid := make(chan struct{}), make(chan int)
	defer close(hold)
	thread := os.Getpid()
	for thread == os.Getpid() { // the first thread never ends
		go func() {
			runtime.LockOSThread() // and not unlocked below, which ends the thread
			if syscall.Gettid() == os.Getpid() {
				tid <- os.Getpid()
				<-hold
				runtime.UnlockOSThread()
				return
			}
			do()
			tid <- syscall.Gettid()
		}()
		thread = <-tid
	}
	for {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); err != nil {
			return
		}
		time.Sleep(time.Millisecond) // polling the kernel
	}
}

// A child does not outlive a process that is killed.
func TestChildEndsWithItsParent(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	parent := again(t.Context())
	parent.Env, parent.Stdout = append(os.Environ(), role+"=berth"), w
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the parent has it
	defer r.Close()
	lines := bufio.NewReader(r)
	uv, python := pidFrom(t, lines), pidFrom(t, lines)
	defer syscall.Kill(python, syscall.SIGKILL) //nolint:errcheck // as python would end by itself
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	awaitEnd(t, "the child", uv)
}

// A child ends with its context, with all that it started, and outlives the thread that wanted it.
func TestChildEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := again(ctx)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Env, cmd.Stdout = append(os.Environ(), role+"=uv"), w
	var wait func() error
	onThreadThatEnds(func() { wait, err = begin(cmd) })
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the child has it
	lines := bufio.NewReader(r)
	uv, python := pidFrom(t, lines), pidFrom(t, lines)
	if !runs(uv) || !runs(python) {
		t.Fatal("the child ended with the thread that wanted it")
	}
	cancel()
	if err := wait(); err == nil {
		t.Errorf("a child whose context ended ended with %v", err)
	}
	awaitEnd(t, "what the child started", python)
}

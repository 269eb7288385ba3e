package local

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// born is the kernel's start time of a process, "" when there is none. Together with the
// number it identifies a process for good, because numbers are used again.
func born(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the command in parentheses and may contain anything.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(rest)
	const state, startTime = 0, 19 // fields after the command
	if !ok || len(fields) <= startTime || fields[state] == "Z" {
		return ""
	}
	return fields[startTime]
}

// alive reports whether the very process that was noted is still there.
func alive(pid int, since string) bool { return pid > 0 && since != "" && born(pid) == since }

// stop ends a process: politely, and after grace for good. It only ever signals the very
// process that was noted.
func stop(pid int, since string, grace time.Duration) error {
	if !alive(pid, since) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("asking Berth (process %d) to stop: %w", pid, err)
	}
	if gone(pid, since, grace) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending Berth (process %d): %w", pid, err)
	}
	if !gone(pid, since, grace) {
		return fmt.Errorf("berth (process %d) cannot be ended", pid)
	}
	return nil
}

// gone waits for the end of a process.
func gone(pid int, since string, limit time.Duration) bool {
	const step = 20 * time.Millisecond
	for waited := time.Duration(0); alive(pid, since); waited += step {
		if waited > limit {
			return false
		}
		time.Sleep(step)
	}
	return true
}

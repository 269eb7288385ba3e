// Package thread runs what changes the thread that it is on: namespaces and the like.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend calls f on a thread that ends with it, so that nothing else ever runs with what f makes of the thread. What f
// starts in other goroutines runs on other threads. The process's first thread is not used: Go never ends it, and
// /proc/self, by which the process and others look up its mounts and networks, means that thread.
func Spend(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f() // not unlocked, which ends the thread
			return
		}
		err := Spend(f) // on another thread, as this one is held meanwhile
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

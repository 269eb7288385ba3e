package main

import (
	"encoding/binary"
	"os"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/sys/unix"
)

// newTimer is a timer of the kernel: reading it waits for its time. Go rounds sleeps up to a millisecond when there is nothing else to wait for.
func newTimer() (fd int, timer *os.File, err error) {
	if fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return 0, nil, os.NewSyscallError("timerfd_create", err)
	}
	return fd, os.NewFile(uintptr(fd), "timer"), nil
}

// expired waits for a timer that is set, and says how often its time has come.
func expired(timer *os.File) uint64 {
	var times [8]byte
	if _, err := timer.Read(times[:]); err != nil {
		panic(err) // reading a timer that is not closed cannot fail
	}
	return binary.NativeEndian.Uint64(times[:])
}

// pace paces an attack by such a timer. vegeta's own sleeps between requests: at 8,400 a second two of three requests then came within
// 30 µs of the one before.
type pace struct {
	timer *os.File
	due   uint64  // requests whose time has come
	rate  float64 // requests a second
}

var _ vegeta.Pacer = (*pace)(nil)

func newPace(rate float64) (*pace, error) {
	fd, timer, err := newTimer()
	if err != nil {
		return nil, err
	}
	p := &pace{timer: timer, rate: rate}
	times := unix.ItimerSpec{Value: unix.NsecToTimespec(1), Interval: unix.NsecToTimespec(int64(float64(time.Second) / rate))}
	if err := unix.TimerfdSettime(fd, 0, &times, nil); err != nil {
		p.close()
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return p, nil
}

// close ends the timer. Nothing was written that could be lost.
func (p *pace) close() { _ = p.timer.Close() }

// Pace implements vegeta.Pacer, but does the waiting itself.
func (p *pace) Pace(_ time.Duration, hits uint64) (time.Duration, bool) {
	for hits >= p.due {
		p.due += expired(p.timer)
	}
	return 0, false
}

// Rate implements vegeta.Pacer.
func (p *pace) Rate(time.Duration) float64 { return p.rate }

// delays are what pods take for requests. They end in the order in which they begin: those of one load are alike.
type delays chan delay

type delay struct {
	until time.Time
	over  chan<- struct{}
}

// sleep is time.Sleep, on time.
func (d delays) sleep(length time.Duration) {
	over := make(chan struct{})
	d <- delay{time.Now().Add(length), over}
	<-over
}

func newDelays() (delays, error) {
	fd, timer, err := newTimer()
	if err != nil {
		return nil, err
	}
	all := make(delays, most)
	go func() {
		for d := range all {
			if left := time.Until(d.until); left > 0 {
				if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(left))}, nil); err != nil {
					panic(err) // setting a timer to a time that is right cannot fail
				}
				expired(timer)
			}
			close(d.over)
		}
	}()
	return all, nil
}

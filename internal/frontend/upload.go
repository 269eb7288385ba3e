package frontend

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// upload is a request's body on its way. An attempt to pass it on closes it, but it stays open for the next one;
// the server closes what is under it in the end.
//
// The server sends no answer while somebody waits for more of a body, and the client need never send that. So waiting
// ends with the time limit, and soon after there is an answer.
type upload struct {
	body    io.Reader
	control *http.ResponseController
	reading chan struct{} // capacity 1: who reads has put something in

	mu    sync.Mutex
	timer *time.Timer
	err   error // what reading ends with, nil before it does
	slow  bool  // it was cut off
}

const (
	// linger is how long a client may go on sending when there is an answer.
	linger = time.Second
	// stall is how long a client may take for a piece of an answer, of at most 32 KiB.
	stall = time.Minute
)

func newUpload(w http.ResponseWriter, body io.ReadCloser) *upload {
	u := &upload{body: body, control: http.NewResponseController(w), reading: make(chan struct{}, 1)}
	if body == http.NoBody {
		u.err = io.EOF
	}
	return u
}

func (u *upload) Read(p []byte) (int, error) {
	u.reading <- struct{}{}
	defer func() { <-u.reading }()
	if err := u.over(); err != nil {
		return 0, err
	}
	n, err := u.body.Read(p)
	if err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.err == nil {
			u.err = err
		}
	}
	return n, err
}

// Close does nothing.
func (*upload) Close() error { return nil }

// over is what reading ended with, nil before it does.
func (u *upload) over() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// cut ends waiting for more of the body.
func (u *upload) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.slow, u.err = true, os.ErrDeadlineExceeded
		u.wait(0)
	}
}

// wait bounds how long is waited for more. Without a network, as in some tests, nobody waits and nothing can be set.
func (u *upload) wait(d time.Duration) { _ = u.control.SetReadDeadline(time.Now().Add(d)) }

// answered says that there is an answer, or an error that becomes one.
func (u *upload) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil && u.timer == nil {
		u.timer = time.AfterFunc(linger, u.cut)
	}
}

// end says that the request is through. The server may then read what is left of the body, so that the connection can be
// used again.
func (u *upload) end() {
	u.answered()
	u.reading <- struct{}{} // until who still reads is through
	defer func() { <-u.reading }()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.timer != nil {
		u.timer.Stop()
	}
	if u.err == nil {
		u.err = http.ErrBodyReadAfterClose
		u.wait(linger)
	}
}

// failed reports whether the client did not send the body to its end.
func (u *upload) failed() bool {
	err := u.over()
	return err != nil && !errors.Is(err, io.EOF)
}

// late reports whether that is because it was too slow.
func (u *upload) late() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.slow
}

// pace makes a client that does not take its answer lose the connection.
func (u *upload) pace(answer io.ReadCloser) io.ReadCloser { return paced{answer, u.control} }

type paced struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read reads what the client has to take next.
func (p paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	_ = p.control.SetWriteDeadline(time.Now().Add(stall)) // the server takes it back after the request
	return n, err
}

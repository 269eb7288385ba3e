package frontend

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// upload is a request's body on its way.
//
// The server sends no answer while somebody waits for more of a body, and the client need never send that. So waiting
// ends with the time limit, and soon after there is an answer.
type upload struct {
	body    io.Reader
	control http.ResponseController

	mu      sync.Mutex
	reading bool  // somebody waits for more; one at a time may
	err     error // what reading ends with, nil before it does
	slow    bool  // it was cut off while somebody waited for more
}

const (
	// linger is how long a client may go on sending when there is an answer.
	linger = time.Second
	// stall is how long a client may take for an answer, or for the rest of one whose pod is needed elsewhere.
	stall = time.Minute
)

// begin is for the body of a request that is answered with w.
func (u *upload) begin(w http.ResponseWriter, body io.ReadCloser) {
	u.body, u.control = body, *http.NewResponseController(w)
	if body == http.NoBody {
		u.err = io.EOF
	}
}

func (u *upload) Read(p []byte) (int, error) {
	if err := u.ask(); err != nil {
		return 0, err
	}
	n, err := u.body.Read(p)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading = false
	if err != nil && u.err == nil {
		u.err = err
	}
	return n, err
}

// ask begins to wait for more, unless reading came to its end.
func (u *upload) ask() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading = u.err == nil
	return u.err
}

// Close does nothing: the server closes what is under it in the end.
func (*upload) Close() error { return nil }

// cut ends waiting for more of the body.
func (u *upload) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.slow, u.err = u.reading, os.ErrDeadlineExceeded
		u.wait(0)
	}
}

// wait bounds how long is waited for more. Without a network, as in some tests, nobody waits and nothing can be set.
func (u *upload) wait(d time.Duration) { _ = u.control.SetReadDeadline(time.Now().Add(d)) }

// end says that the request is through. The server may then read what is left of the body, for a moment, so that the connection
// can be used again.
func (u *upload) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = http.ErrBodyReadAfterClose
		u.wait(linger)
	}
}

// late reports whether the client was too slow with the body.
func (u *upload) late() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.slow && !errors.Is(u.err, io.EOF)
}

// pace makes a client that does not take its answer lose the connection. The server takes it back after the request.
func (u *upload) pace() { _ = u.control.SetWriteDeadline(time.Now().Add(stall)) }

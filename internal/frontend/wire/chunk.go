package wire

import "sync"

const (
	// Chunk is how much of a body is read at a time, in bytes. Thousands of clients may take their time with theirs, and a request holds
	// this much meanwhile.
	Chunk = 32 << 10
	// largeChunk is how much is read of a body that comes fast, in bytes: 1 MiB each way then takes a quarter less processor time than with 128 KiB
	// at a time. Twice as much brought no more.
	largeChunk = 512 << 10
	// largeAtOnce is for how many bodies that is at the same time. More do not come fast at the same time, unless the processors are
	// overrun; then memory counts.
	largeAtOnce = 32
)

var (
	smallChunks = sync.Pool{New: func() any { return ptr(make([]byte, Chunk)) }}
	largeChunks = sync.Pool{New: func() any { return ptr(make([]byte, largeChunk)) }}
	largeUsed   = make(chan struct{}, largeAtOnce) // as many as are in use are in it
)

func ptr(b []byte) *[]byte { return &b }

// chunk is a part of a body, on its way.
type chunk struct {
	b     *[]byte
	large bool
}

func newChunk() chunk { return chunk{b: take(&smallChunks)} }

func take(p *sync.Pool) *[]byte {
	b, ok := p.Get().(*[]byte)
	if !ok {
		panic("a pool of chunks holds something else")
	}
	return b
}

// fit makes the chunk large or small, as the last read of n bytes suggests.
func (c *chunk) fit(n int) {
	switch {
	case !c.large && n == Chunk:
		select {
		case largeUsed <- struct{}{}:
			c.free()
			*c = chunk{take(&largeChunks), true}
		default: // there are enough of them
		}
	case c.large && n < Chunk:
		c.free()
		*c = newChunk()
	}
}

func (c *chunk) free() {
	if !c.large {
		smallChunks.Put(c.b)
		return
	}
	largeChunks.Put(c.b)
	<-largeUsed
}

package wire

import (
	"io"
	"sync"
	"testing"
)

// sender sends a body in parts of given lengths, as many bytes of each as are asked for, and keeps how many that were.
type sender struct {
	parts []int
	asked []int
	first func() // called before the last part
}

func (s *sender) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	if len(s.parts) == 1 && s.first != nil {
		s.first()
	}
	s.asked = append(s.asked, len(p))
	n := min(s.parts[0], len(p))
	s.parts = s.parts[1:]
	return n, nil
}

// A body that comes fast is read in large parts, and one that does not in small ones.
func TestChunksFollowTheSender(t *testing.T) {
	const all = 1 << 30
	for _, tt := range []struct {
		name         string
		parts, asked []int
	}{
		{"slow", []int{1, Chunk - 1, 1000}, []int{Chunk, Chunk, Chunk}},
		{"fast", []int{all, all, Chunk, 5}, []int{Chunk, largeChunk, largeChunk, largeChunk}},
		{"fast, then slow", []int{all, all, 10, 10}, []int{Chunk, largeChunk, largeChunk, Chunk}},
		{"fast again", []int{all, 10, all, 10}, []int{Chunk, largeChunk, Chunk, largeChunk}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sender{parts: tt.parts}
			if read, write := copyBody(io.Discard, s, nothing); read != nil || write != nil {
				t.Fatal(read, write)
			}
			if len(s.asked) != len(tt.asked) {
				t.Fatalf("asked for %v, want %v", s.asked, tt.asked)
			}
			for i := range s.asked {
				if s.asked[i] != tt.asked[i] {
					t.Errorf("asked for %v, want %v", s.asked, tt.asked)
				}
			}
			if n := len(largeUsed); n != 0 {
				t.Errorf("%d large chunks are still in use", n)
			}
		})
	}
}

// Whatever comes, only so much memory goes into large parts. Who finds none left reads in small ones.
func TestLargeChunksAreBounded(t *testing.T) {
	const more = 5
	var reading, done sync.WaitGroup
	reading.Add(largeAtOnce + more)
	senders := make([]*sender, largeAtOnce+more)
	for i := range senders {
		s := &sender{parts: []int{Chunk, 1}, first: func() {
			reading.Done()
			reading.Wait() // all of them are at their second part
		}}
		senders[i] = s
		done.Go(func() { _, _ = copyBody(io.Discard, s, nothing) })
	}
	done.Wait()
	large := 0
	for _, s := range senders {
		if s.asked[1] == largeChunk {
			large++
		}
	}
	if large != largeAtOnce {
		t.Errorf("%d bodies were read in large parts, want %d", large, largeAtOnce)
	}
	if n := len(largeUsed); n != 0 {
		t.Errorf("%d large chunks are still in use", n)
	}
}

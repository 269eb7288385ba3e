// Package blob keeps files, and speaks Azure Blob storage's REST protocol to the clients that bring and
// fetch them. Content goes to any bucket that gocloud.dev can open: a folder, S3, Google Cloud
// Storage or Azure. Nothing is held in memory but the part that is on its way.
//
// The one invariant: a blob is visible only when it is complete and its checksum, where the
// client sent one, is right.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file:// buckets
	"gocloud.dev/gcerrors"
)

// ErrNotFound says that there is no such blob.
var ErrNotFound = errors.New("there is no such blob")

// Store is a bucket with the accounts of this installation in it.
type Store struct {
	bucket *blob.Bucket
	key    []byte // signs URLs
	now    func() time.Time
}

// Name says which blob.
type Name struct{ Account, Container, Path string }

// Info is what is known of a blob.
type Info struct {
	Name     Name
	Size     int64 // bytes
	Modified time.Time
	ETag     string
	Type     string // content type
	MD5      []byte
}

// Open opens the bucket at a URL. key signs URLs; it is at least 32 random bytes.
func Open(ctx context.Context, url string, key []byte, now func() time.Time) (*Store, error) {
	b, err := blob.OpenBucket(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("opening the storage of blobs: %w", err)
	}
	return &Store{bucket: b, key: key, now: now}, nil
}

// Close releases the bucket.
func (s *Store) Close() error { return s.bucket.Close() }

// object is a blob's key in the bucket.
func (n Name) object() string { return "blobs/" + n.Account + "/" + n.Container + "/" + n.Path }

// staged is the prefix of a blob's blocks that are not committed.
func (n Name) staged() string {
	sum := sha256.Sum256([]byte(n.object()))
	return "blocks/" + hex.EncodeToString(sum[:16]) + "/"
}

func (s *Store) found(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return ErrNotFound
	}
	return err
}

// Stat describes a blob. Errors: ErrNotFound.
func (s *Store) Stat(ctx context.Context, n Name) (Info, error) {
	a, err := s.bucket.Attributes(ctx, n.object())
	if err != nil {
		return Info{}, s.found(err)
	}
	return Info{Name: n, Size: a.Size, Modified: a.ModTime, ETag: a.ETag, Type: a.ContentType, MD5: a.MD5}, nil
}

// Read opens length bytes of a blob from offset on; length -1 means to the end. Errors: ErrNotFound.
func (s *Store) Read(ctx context.Context, n Name, offset, length int64) (io.ReadCloser, error) {
	r, err := s.bucket.NewRangeReader(ctx, n.object(), offset, length, nil)
	if err != nil {
		return nil, s.found(err)
	}
	return r, nil
}

// Write stores a blob. md5 is what its content must have, nil for anything. Where it fails, the
// blob is as it was before.
func (s *Store) Write(ctx context.Context, n Name, contentType string, md5 []byte, content io.Reader) error {
	return s.put(ctx, n.object(), contentType, md5, content)
}

func (s *Store) put(ctx context.Context, key, contentType string, md5 []byte, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a writer whose context ends before Close stores nothing
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	w, err := s.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: contentType, ContentMD5: md5})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, content); err != nil {
		cancel()
		_ = w.Close() // stores nothing, and says so
		return err
	}
	return w.Close()
}

// Delete removes a blob. Errors: ErrNotFound.
func (s *Store) Delete(ctx context.Context, n Name) error {
	return s.found(s.bucket.Delete(ctx, n.object()))
}

// List calls fn for the blobs of a container whose path begins with prefix, in order, until fn returns an error.
func (s *Store) List(ctx context.Context, account, container, prefix string, fn func(Info) error) error {
	root := Name{Account: account, Container: container}.object()
	it := s.bucket.List(&blob.ListOptions{Prefix: root + prefix})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(Info{Name: Name{account, container, strings.TrimPrefix(o.Key, root)}, Size: o.Size, Modified: o.ModTime, MD5: o.MD5}); err != nil {
			return err
		}
	}
}

// PutBlock stages a block of a blob under an ID, which the client chooses.
func (s *Store) PutBlock(ctx context.Context, n Name, id string, md5 []byte, content io.Reader) error {
	return s.put(ctx, n.staged()+hex.EncodeToString([]byte(id)), "", md5, content)
}

// Blocks lists the IDs and sizes of the blocks that are staged for a blob.
func (s *Store) Blocks(ctx context.Context, n Name) (ids []string, sizes []int64, err error) {
	it := s.bucket.List(&blob.ListOptions{Prefix: n.staged()})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return ids, sizes, nil
		}
		if err != nil {
			return nil, nil, err
		}
		id, err := hex.DecodeString(strings.TrimPrefix(o.Key, n.staged()))
		if err != nil {
			return nil, nil, fmt.Errorf("the block %s has no readable ID: %w", o.Key, err)
		}
		ids, sizes = append(ids, string(id)), append(sizes, o.Size)
	}
}

// Commit makes a blob of staged blocks, in the order of ids, and forgets the blocks.
// Errors: ErrNotFound for a block that is not there.
func (s *Store) Commit(ctx context.Context, n Name, ids []string, contentType string) error {
	readers := make([]io.Reader, len(ids))
	for i, id := range ids {
		key := n.staged() + hex.EncodeToString([]byte(id))
		ok, err := s.bucket.Exists(ctx, key)
		if err != nil {
			return err
		}
		if !ok {
			return ErrNotFound
		}
		readers[i] = &lazy{open: func() (io.ReadCloser, error) { return s.bucket.NewReader(ctx, key, nil) }}
	}
	if err := s.put(ctx, n.object(), contentType, nil, io.MultiReader(readers...)); err != nil {
		return err
	}
	return s.discard(ctx, n)
}

// discard forgets the staged blocks of a blob.
func (s *Store) discard(ctx context.Context, n Name) error {
	ids, _, err := s.Blocks(ctx, n)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.bucket.Delete(ctx, n.staged()+hex.EncodeToString([]byte(id))); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return err
		}
	}
	return nil
}

// uncommitted is how long blocks wait for their list, as in Azure.
const uncommitted = 7 * 24 * time.Hour

// Sweep forgets blocks that were staged more than a week ago and never committed.
func (s *Store) Sweep(ctx context.Context) error {
	it := s.bucket.List(&blob.ListOptions{Prefix: "blocks/"})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.ModTime.After(s.now().Add(-uncommitted)) {
			continue
		}
		if err := s.bucket.Delete(ctx, o.Key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return err
		}
	}
}

// lazy opens a reader when it is first read and closes it at its end, so that a blob of
// thousands of blocks has one open at a time.
type lazy struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
}

func (l *lazy) Read(p []byte) (int, error) {
	if l.r == nil {
		var err error
		if l.r, err = l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.r.Read(p)
	if err != nil {
		err = errors.Join(err, l.r.Close())
		if errors.Is(err, io.EOF) {
			err = io.EOF
		}
	}
	return n, err
}

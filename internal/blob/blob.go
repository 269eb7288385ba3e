// Package blob keeps files, and speaks Azure Blob storage's REST protocol to the clients that bring and
// fetch them. Content goes to any bucket that gocloud.dev can open: a folder, S3, Google Cloud
// Storage or Azure. Nothing is held in memory but the part that is on its way.
//
// The one invariant: a blob is visible only when it is complete and its checksum, where the
// client sent one, is right.
package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file:// buckets
	"gocloud.dev/gcerrors"
)

// Errors that callers handle.
var (
	ErrNotFound = errors.New("there is no such blob")
	ErrExists   = errors.New("there is such a blob already")
	// ErrChecksum says that content is not what its sender said it was.
	ErrChecksum = errors.New("the content does not have its checksum")
)

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
	Metadata map[string]string
}

// Upload says how a blob is stored. The zero value takes any content and replaces what is there.
type Upload struct {
	Type     string // content type
	Metadata map[string]string
	Checksum Checksum
	New      bool // only where there is no such blob yet
}

// Checksum is what content must have; nil means anything.
type Checksum struct{ MD5, SHA256 []byte }

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

// mark ends the keys of complete blobs and blocks. A folder as a bucket keeps other files beside them
// (attributes, what is being written, what a crash left half written), and cannot have a file and a
// folder of the same name, which blobs a and a/b would be.
const mark = "~"

// folder is the prefix of a container's keys in the bucket.
func folder(account, container string) string { return "blobs/" + account + "/" + container + "/" }

// object is a blob's key in the bucket.
func (n Name) object() string { return folder(n.Account, n.Container) + n.Path + mark }

// plain reports whether a path means the same to every kind of bucket. A folder takes a/./b for a/b.
func plain(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return true
}

// staged is the prefix of a blob's blocks that are not committed.
func (n Name) staged() string {
	sum := sha256.Sum256([]byte(n.object()))
	return "blocks/" + hex.EncodeToString(sum[:16]) + "/"
}

// block is the key of a staged block.
func (n Name) block(id string) string { return n.staged() + hex.EncodeToString([]byte(id)) + mark }

func found(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return ErrNotFound
	}
	return err
}

// objects lists what is complete below a prefix, in the order of keys.
func (s *Store) objects(ctx context.Context, prefix string) ([]*blob.ListObject, error) {
	// A folder as a bucket lists a/b before a.txt and yet goes on after a page with what is greater than its
	// last key, so that objects are lost between pages. Whatever there is has to be on one page.
	for size := 1000; ; size *= 32 {
		page, next, err := s.bucket.ListPage(ctx, blob.FirstPageToken, size, &blob.ListOptions{Prefix: prefix})
		if err != nil {
			return nil, err
		}
		if len(next) > 0 {
			continue
		}
		page = slices.DeleteFunc(page, func(o *blob.ListObject) bool { return !strings.HasSuffix(o.Key, mark) })
		for _, o := range page {
			o.Key = strings.TrimSuffix(o.Key, mark)
		}
		slices.SortFunc(page, func(a, b *blob.ListObject) int { return strings.Compare(a.Key, b.Key) })
		return page, nil
	}
}

// Stat describes a blob. Errors: ErrNotFound.
func (s *Store) Stat(ctx context.Context, n Name) (Info, error) {
	a, err := s.bucket.Attributes(ctx, n.object())
	if err != nil {
		return Info{}, found(err)
	}
	return Info{Name: n, Size: a.Size, Modified: a.ModTime, ETag: a.ETag, Type: a.ContentType, MD5: a.MD5, Metadata: a.Metadata}, nil
}

// Read opens length bytes of a blob from offset on; length -1 means to the end. Errors: ErrNotFound.
func (s *Store) Read(ctx context.Context, n Name, offset, length int64) (io.ReadCloser, error) {
	r, err := s.bucket.NewRangeReader(ctx, n.object(), offset, length, nil)
	if err != nil {
		return nil, found(err)
	}
	return r, nil
}

// Write stores a blob, and forgets blocks that were staged for it. Where it fails, the blob is as it
// was before. Errors: ErrExists, ErrChecksum.
func (s *Store) Write(ctx context.Context, n Name, u Upload, content io.Reader) error {
	if err := s.put(ctx, n.object(), u, content); err != nil {
		return err
	}
	return s.discard(ctx, n)
}

func (s *Store) put(ctx context.Context, key string, u Upload, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a writer whose context ends before Close stores nothing
	if u.Type == "" {
		u.Type = "application/octet-stream"
	}
	w, err := s.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: u.Type, ContentMD5: u.Checksum.MD5, Metadata: u.Metadata, IfNotExist: u.New})
	if err != nil {
		return err
	}
	if u.Checksum.SHA256 != nil {
		content = &checked{r: content, sum: sha256.New(), want: u.Checksum.SHA256}
	}
	if _, err := io.Copy(w, content); err != nil {
		cancel()
		_ = w.Close() // stores nothing, and says so
		return err
	}
	err = w.Close()
	if gcerrors.Code(err) != gcerrors.FailedPrecondition {
		return err
	}
	if u.New { // either condition may have failed
		if there, _ := s.bucket.Exists(ctx, key); there {
			return ErrExists
		}
	}
	return ErrChecksum
}

// checked fails at the end of content that does not have its checksum.
type checked struct {
	r    io.Reader
	sum  hash.Hash
	want []byte
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.sum.Write(p[:n]) // a hash takes everything
	if errors.Is(err, io.EOF) && c.want != nil && !bytes.Equal(c.sum.Sum(nil), c.want) {
		err = ErrChecksum
	}
	return n, err
}

// Delete removes a blob and the blocks that are staged for it. Errors: ErrNotFound.
func (s *Store) Delete(ctx context.Context, n Name) error {
	if err := s.bucket.Delete(ctx, n.object()); err != nil {
		return found(err)
	}
	return s.discard(ctx, n)
}

// List calls fn for the blobs of a container whose path begins with prefix, in order, until fn returns an error.
// They have no ETag and no Type.
func (s *Store) List(ctx context.Context, account, container, prefix string, fn func(Info) error) error {
	if !plain(prefix) {
		return nil
	}
	root := folder(account, container)
	all, err := s.objects(ctx, root+prefix)
	if err != nil {
		return err
	}
	for _, o := range all {
		if err := fn(Info{Name: Name{account, container, strings.TrimPrefix(o.Key, root)}, Size: o.Size, Modified: o.ModTime, MD5: o.MD5}); err != nil {
			return err
		}
	}
	return nil
}

// PutBlock stages a block of a blob under an ID, which the client chooses. Errors: ErrChecksum.
func (s *Store) PutBlock(ctx context.Context, n Name, id string, sum Checksum, content io.Reader) error {
	return s.put(ctx, n.block(id), Upload{Checksum: sum}, content)
}

// Block is a staged block.
type Block struct {
	ID   string
	Size int64 // bytes
}

// Blocks lists the blocks that are staged for a blob.
func (s *Store) Blocks(ctx context.Context, n Name) ([]Block, error) {
	all, err := s.objects(ctx, n.staged())
	if err != nil {
		return nil, err
	}
	out := make([]Block, len(all))
	for i, o := range all {
		id, err := hex.DecodeString(strings.TrimPrefix(o.Key, n.staged()))
		if err != nil {
			return nil, fmt.Errorf("the block %s has no readable ID: %w", o.Key, err)
		}
		out[i] = Block{string(id), o.Size}
	}
	return out, nil
}

// Commit makes a blob of staged blocks, in the order of ids, and forgets the blocks.
// Errors: ErrNotFound for a block that is not there, ErrExists.
func (s *Store) Commit(ctx context.Context, n Name, ids []string, u Upload) error {
	staged, err := s.Blocks(ctx, n)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(staged))
	for _, b := range staged {
		there[b.ID] = true
	}
	content := make([]io.Reader, len(ids))
	for i, id := range ids {
		if !there[id] {
			return ErrNotFound
		}
		l := &lazy{open: func() (io.ReadCloser, error) { return s.bucket.NewReader(ctx, n.block(id), nil) }}
		defer l.Close() //nolint:errcheck // it was only read
		content[i] = l
	}
	if err := s.put(ctx, n.object(), u, io.MultiReader(content...)); err != nil {
		return found(err) // another commit may have taken the blocks
	}
	return s.discard(ctx, n)
}

// discard forgets the staged blocks of a blob.
func (s *Store) discard(ctx context.Context, n Name) error {
	staged, err := s.Blocks(ctx, n)
	if err != nil {
		return err
	}
	for _, b := range staged {
		if err := found(s.bucket.Delete(ctx, n.block(b.ID))); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// uncommitted is how long blocks wait for their list, as in Azure.
const uncommitted = 7 * 24 * time.Hour

// Sweep forgets blocks that were staged more than a week ago and never committed, and what a crash
// left of ones that were on their way then.
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
		if err := found(s.bucket.Delete(ctx, o.Key)); err != nil && !errors.Is(err, ErrNotFound) {
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
	if errors.Is(err, io.EOF) {
		if closed := l.r.Close(); closed != nil {
			err = closed
		}
		l.r = nothing{} // so that whoever reads on does not open it again
	}
	return n, err
}

// Close closes a reader that was not read to its end.
func (l *lazy) Close() error {
	if l.r == nil {
		return nil
	}
	return l.r.Close()
}

// nothing is a reader that has ended.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }
func (nothing) Close() error             { return nil }

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
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // the protocol's checksum
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gocloud.dev/blob"
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
	folder bool   // the bucket is a folder
	dir    string // where that is
	key    []byte // signs URLs
	now    func() time.Time
	opened time.Time // as the bucket dates files, whatever now says
	limit  int       // bytes of a key; 0 for none
	swept  atomic.Bool
	busy   [256]sync.RWMutex // by object: held shared while it is written and alone while Reap removes it
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

// Open opens the bucket at a URL, which ValidURL takes, and sees that it can be used. Its errors are for the person who
// chose the URL, and show nothing secret. key signs URLs; it is at least 32 random bytes.
func Open(ctx context.Context, url string, key []byte, now func() time.Time) (*Store, error) {
	b, u, err := openBucket(ctx, url)
	if err != nil {
		return nil, err
	}
	s := &Store{bucket: b, folder: u.Scheme == "file", key: key, now: now, opened: time.Now()}
	if s.folder {
		s.dir = filepath.FromSlash(u.Path)
	} else {
		s.limit = maxKey - len(u.Query().Get("prefix"))
	}
	return s, nil
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

// keys lists everything below a prefix.
func (s *Store) keys(ctx context.Context, prefix string) ([]*blob.ListObject, error) {
	opts := &blob.ListOptions{Prefix: prefix}
	if !s.folder {
		var all []*blob.ListObject
		it := s.bucket.List(opts)
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return all, nil
			}
			if err != nil {
				return nil, err
			}
			all = append(all, o)
		}
	}
	// A folder as a bucket lists a/b before a.txt and yet goes on after a page with what is greater than its
	// last key, so that objects are lost between pages. Whatever there is has to be on one page. Clouds limit
	// their pages.
	for size := 1000; ; size *= 32 {
		page, next, err := s.bucket.ListPage(ctx, blob.FirstPageToken, size, opts)
		if err != nil || len(next) == 0 {
			return page, err
		}
	}
}

// objects lists what is complete below a prefix, in the order of keys.
func (s *Store) objects(ctx context.Context, prefix string) ([]*blob.ListObject, error) {
	all, err := s.keys(ctx, prefix)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(o *blob.ListObject) bool { return !strings.HasSuffix(o.Key, mark) })
	for _, o := range all {
		o.Key = strings.TrimSuffix(o.Key, mark)
	}
	slices.SortFunc(all, func(a, b *blob.ListObject) int { return strings.Compare(a.Key, b.Key) })
	return all, nil
}

// Stat describes a blob. Errors: ErrNotFound.
func (s *Store) Stat(ctx context.Context, n Name) (Info, error) {
	a, err := s.bucket.Attributes(ctx, n.object())
	if err != nil {
		return Info{}, found(err)
	}
	delete(a.Metadata, s.committed())
	return Info{Name: n, Size: a.Size, Modified: a.ModTime, ETag: a.ETag, Type: a.ContentType, MD5: a.MD5, Metadata: a.Metadata}, nil
}

// Read opens length bytes of a blob from offset on; length -1 means to the end. Errors: ErrNotFound.
func (s *Store) Read(ctx context.Context, n Name, offset, length int64) (io.ReadCloser, error) {
	if length == 0 { // clouds have no empty ranges
		if _, err := s.Stat(ctx, n); err != nil {
			return nil, err
		}
		return nothing{}, nil
	}
	r, err := s.bucket.NewRangeReader(ctx, n.object(), offset, length, nil)
	if err != nil {
		return nil, found(err)
	}
	return r, nil
}

// Write stores a blob, and forgets blocks that were staged for it. Where it fails, the blob is as it
// was before. Errors: ErrExists, ErrChecksum.
func (s *Store) Write(ctx context.Context, n Name, u Upload, content io.Reader) error {
	delete(u.Metadata, s.committed())
	if err := s.put(ctx, n.object(), u, 0, content); err != nil {
		return err
	}
	return s.discard(ctx, n)
}

// A bucket in a cloud takes an object in parts: S3 at most 10,000, Azure 50,000. Parts are held in memory while they
// are on their way.
const (
	partSize = 8 << 20 // bytes
	maxParts = 10000
	parallel = 4 // parts on their way at once
)

// part is the size of the parts that an object of so many bytes goes up in.
func part(size int64) int { return int(max(partSize, (size+maxParts-1)/maxParts)) }

// put stores an object of so many bytes; 0 means at most maxBlob.
func (s *Store) put(ctx context.Context, key string, u Upload, size int64, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lock := s.lock(key)
	lock.RLock()
	defer lock.RUnlock()
	if u.Type == "" {
		u.Type = "application/octet-stream"
	}
	in := check(content, u.Checksum, cancel)
	err := s.bucket.Upload(ctx, key, in, &blob.WriterOptions{
		ContentType: u.Type, Metadata: u.Metadata, IfNotExist: u.New, BufferSize: part(size), MaxConcurrency: parallel,
	})
	switch {
	case in.failed != nil:
		return in.failed
	case u.New && gcerrors.Code(err) == gcerrors.FailedPrecondition:
		return ErrExists
	}
	return err
}

// checked is content on its way to the bucket. It fails at the end of content that does not have its checksum. A bucket
// may take any end for the whole, so whatever fails ends the upload's context as well: then nothing is stored.
// Checksums are not left to the bucket: its Azure driver panics when it has to refuse.
type checked struct {
	r           io.Reader
	want        Checksum
	md5, sha256 hash.Hash // nil where nothing is wanted
	cancel      func()
	failed      error
}

func check(r io.Reader, want Checksum, cancel func()) *checked {
	c := &checked{r: r, want: want, cancel: cancel}
	if want.MD5 != nil {
		c.md5 = md5.New() //nolint:gosec // the protocol's checksum
	}
	if want.SHA256 != nil {
		c.sha256 = sha256.New()
	}
	return c
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	right := func(h hash.Hash, want []byte) bool {
		if h == nil {
			return true
		}
		_, _ = h.Write(p[:n]) // a hash takes everything
		return !errors.Is(err, io.EOF) || bytes.Equal(h.Sum(nil), want)
	}
	if md5, sha := right(c.md5, c.want.MD5), right(c.sha256, c.want.SHA256); !md5 || !sha {
		err = ErrChecksum
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.failed = err
		c.cancel()
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
	return s.put(ctx, n.block(id), Upload{Checksum: sum}, 0, content)
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

// Commit makes a blob of staged blocks, in the order of ids, and forgets the blocks. The list that the blob is made of may be
// given again. Errors: ErrNotFound for a block that is not there, ErrExists.
func (s *Store) Commit(ctx context.Context, n Name, ids []string, u Upload) error {
	staged, err := s.Blocks(ctx, n)
	if err != nil {
		return err
	}
	sizes := make(map[string]int64, len(staged))
	for _, b := range staged {
		sizes[b.ID] = b.Size
	}
	var size int64
	content := make([]io.Reader, len(ids))
	for i, id := range ids {
		have, there := sizes[id]
		if !there {
			return s.repeated(ctx, n, ids)
		}
		size += have
		l := &lazy{open: func() (io.ReadCloser, error) { return s.bucket.NewReader(ctx, n.block(id), nil) }}
		defer l.Close() //nolint:errcheck // it was only read
		content[i] = l
	}
	u.Metadata = maps.Clone(u.Metadata)
	if u.Metadata == nil {
		u.Metadata = map[string]string{}
	}
	u.Metadata[s.committed()] = sumOf(ids)
	if err := s.put(ctx, n.object(), u, size, io.MultiReader(content...)); err != nil {
		return found(err) // another commit may have taken the blocks
	}
	return s.discard(ctx, n)
}

// repeated ends a commit that came before: Berth may have been killed in the middle of it, or its answer may not have reached the
// client. Errors: ErrNotFound when the blob was made of other blocks.
func (s *Store) repeated(ctx context.Context, n Name, ids []string) error {
	a, err := s.bucket.Attributes(ctx, n.object())
	if err != nil {
		return found(err)
	}
	if a.Metadata[s.committed()] != sumOf(ids) {
		return ErrNotFound
	}
	return s.discard(ctx, n)
}

// committed names metadata of Berth's own: the sum of the IDs of the blocks that a blob was made of, so that a block list that
// is sent again, because its answer was lost, is known. Clients neither see it nor set it. The name follows from the
// key, because a bucket may be another Berth's.
func (s *Store) committed() string {
	sum := hmac.New(sha256.New, s.key)
	_, _ = sum.Write([]byte("block list")) // a hash takes everything
	return "berth" + hex.EncodeToString(sum.Sum(nil)[:4])
}

// sumOf is a sum of block IDs in their order. IDs are not empty and have no line breaks: they are text in base64.
func sumOf(ids []string) string {
	sum := sha256.Sum256([]byte(strings.Join(ids, "\n")))
	return hex.EncodeToString(sum[:])
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

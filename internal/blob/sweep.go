package blob

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
)

// walk calls fn for everything below a prefix. What shares a prefix that ends with a slash comes in one run. fn may
// remove what it is called for. A cloud's listing is read page by page, a folder's directory by directory.
func (s *Store) walk(ctx context.Context, prefix string, fn func(*blob.ListObject) error) error {
	if !s.folder {
		it := s.bucket.List(&blob.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := fn(o); err != nil {
				return err
			}
		}
	}
	level, err := s.level(ctx, prefix)
	if err != nil {
		return err
	}
	for _, o := range level {
		if o.IsDir {
			err = s.walk(ctx, o.Key, fn)
		} else {
			err = fn(o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// level lists a directory of a folder. As in keys, all has to be on one page.
func (s *Store) level(ctx context.Context, prefix string) ([]*blob.ListObject, error) {
	for size := 1000; ; size *= 32 {
		page, next, err := s.bucket.ListPage(ctx, blob.FirstPageToken, size, &blob.ListOptions{Prefix: prefix, Delimiter: "/"})
		if err != nil || len(next) == 0 {
			// A directory comes again where something else was sorted between its files.
			slices.SortFunc(page, func(a, b *blob.ListObject) int { return strings.Compare(a.Key, b.Key) })
			return slices.CompactFunc(page, func(a, b *blob.ListObject) bool { return a.Key == b.Key }), err
		}
	}
}

// Walk calls fn for the blobs of all accounts until it returns an error. Blobs of one account, of one container in it
// and of one folder in that come in one run. fn may Reap. Memory does not grow with the number of blobs in a cloud's
// bucket, and with the files of one directory in a folder. The blobs have no ETag and no Type.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error {
	const root = "blobs/"
	return s.walk(ctx, root, func(o *blob.ListObject) error {
		key, complete := strings.CutSuffix(o.Key, mark)
		parts := strings.SplitN(strings.TrimPrefix(key, root), "/", 3)
		if !complete || len(parts) != 3 {
			return nil
		}
		return fn(Info{Name: Name{parts[0], parts[1], parts[2]}, Size: o.Size, Modified: o.ModTime, MD5: o.MD5})
	})
}

var seed = maphash.MakeSeed()

func (s *Store) lock(key string) *sync.RWMutex {
	return &s.busy[maphash.String(seed, key)%uint64(len(s.busy))]
}

// Reap removes a blob that was last written before a time, and says how many bytes it had; ok is false where it stayed.
// One that is being written stays, and so does one that was written since: whoever listed it knew another. Only one
// process may use the bucket for that to hold.
func (s *Store) Reap(ctx context.Context, n Name, before time.Time) (size int64, ok bool, err error) {
	lock := s.lock(n.object())
	if !lock.TryLock() { // uploads take hours; the next time is early enough
		return 0, false, nil
	}
	defer lock.Unlock()
	i, err := s.Stat(ctx, n)
	if errors.Is(err, ErrNotFound) || err == nil && !i.Modified.Before(before) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// Blocks stay: somebody may be about to commit them to the name.
	if err := found(s.bucket.Delete(ctx, n.object())); err != nil && !errors.Is(err, ErrNotFound) {
		return 0, false, err
	}
	return i.Size, true, nil
}

// uncommitted is how long blocks wait for their list, as in Azure.
const uncommitted = 7 * 24 * time.Hour

// Sweep forgets blocks that were staged more than a week ago and never committed. In a folder it removes what was on
// its way when an earlier process was killed, too: nobody else may have the folder open; and directories that are
// empty. Clouds keep nothing of an upload that broke off, but the parts that a rule of the bucket's removes.
func (s *Store) Sweep(ctx context.Context) error {
	prefix := "blocks/"
	if s.folder && !s.swept.Load() { // once is enough for what an earlier process left
		prefix = ""
	}
	err := s.walk(ctx, prefix, func(o *blob.ListObject) error {
		gone := strings.HasPrefix(o.Key, "blocks/") && !o.ModTime.After(s.now().Add(-uncommitted)) ||
			strings.HasSuffix(o.Key, ".tmp") && o.ModTime.Before(s.opened)
		if !gone {
			return nil
		}
		if err := found(s.bucket.Delete(ctx, o.Key)); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.folder {
		if err := s.prune(); err != nil {
			return err
		}
	}
	s.swept.Store(true)
	return nil
}

// settled is how long a directory has to be as it is before it is removed for being empty: an upload makes its
// directory, and its file at once after that.
const settled = time.Hour

// prune removes from a folder the directories that nothing is in, and the attributes of files that are gone. The
// package that keeps the folder leaves the former always and the latter when it is killed between two files.
func (s *Store) prune() error {
	var dirs []string
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == s.dir {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		old := time.Since(info.ModTime()) > settled // as the file system dates it, whatever now says
		switch file, attributes := strings.CutSuffix(path, ".attrs"); {
		case e.IsDir() && old:
			dirs = append(dirs, path)
		case attributes && old:
			if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
				return ignoreGone(os.Remove(path))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) { // the inner ones first
		_ = os.Remove(dir) // it fails where something is inside, as it should
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

package mlclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5" // what Content-MD5 is made of; it guards against damage, not against people
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Stored is a file of the workspace's, and the path it gets on this machine.
type Stored struct {
	Path string // with slashes, relative
	URL  string // signed
}

// Stored lists the files of an asset, which are those of a model. Their paths begin with the base name of what
// was uploaded, as azureml-core has it. Errors: *armclient.Error, for instance when there is no such asset.
func (c *Client) Stored(ctx context.Context, asset string) ([]Stored, error) {
	doc, err := c.Get(ctx, c.Models("/assets/"+url.PathEscape(asset)), nil)
	if err != nil {
		return nil, err
	}
	var out []Stored
	parts, _ := doc["artifacts"].([]any)
	for _, part := range parts {
		a, _ := part.(map[string]any)
		prefix, _ := a["prefix"].(string)
		id, _ := a["id"].(string)
		prefix = cmp.Or(id, prefix)
		found, err := c.below(ctx, prefix)
		if err != nil {
			return nil, err
		}
		_, file, _ := strings.Cut(prefix, "/")
		_, file, _ = strings.Cut(file, "/")
		strip := strings.TrimPrefix(path.Dir(file)+"/", "./")
		for _, f := range found {
			if f.Path = strings.TrimPrefix(f.Path, strip); !filepath.IsLocal(filepath.FromSlash(f.Path)) {
				return nil, fmt.Errorf("the workspace has a file with the path %q, which leads out of the folder to download to", f.Path)
			}
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there are no files: nothing was uploaded, or it was deleted")
	}
	return out, nil
}

// below lists the artifacts below a prefix, origin/container/path, by their paths in the container.
func (c *Client) below(ctx context.Context, prefix string) ([]Stored, error) {
	var out []Stored
	q := url.Values{}
	for {
		page, err := c.Get(ctx, c.Artifacts("/artifacts/prefix/contentinfo/"+(&url.URL{Path: prefix}).EscapedPath()), q)
		if err != nil {
			return nil, err
		}
		list, _ := page["value"].([]any)
		for _, item := range list {
			m, _ := item.(map[string]any)
			file, _ := m["path"].(string)
			uri, _ := m["contentUri"].(string)
			out = append(out, Stored{Path: file, URL: uri})
		}
		token, _ := page["continuationToken"].(string)
		if token == "" {
			return out, nil
		}
		q.Set("continuationToken", token)
	}
}

// Download gets files into a folder. Nothing is held in memory; what breaks off goes on where it was, and a file
// gets its name when all of it is there with the right checksum. overwrite replaces files that are there already; without,
// nothing is downloaded where one is (fs.ErrExist). got is called, from any goroutine, with the number of bytes so far.
func (c *Client) Download(ctx context.Context, files []Stored, dir string, overwrite bool, got func(int64)) error {
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f.Path))); err == nil && !overwrite {
			return &fs.PathError{Op: "download", Path: filepath.Join(dir, filepath.FromSlash(f.Path)), Err: fs.ErrExist}
		}
	}
	var total atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, f := range files {
		g.Go(func() error {
			to := filepath.Join(dir, filepath.FromSlash(f.Path))
			if err := c.downloadFile(ctx, f.URL, to, func(n int64) { got(total.Add(n)) }); err != nil {
				return fmt.Errorf("downloading %s: %w", f.Path, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (c *Client) downloadFile(ctx context.Context, from, to string, got func(int64)) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".part-*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, part.Close())
		if err == nil {
			err = os.Rename(part.Name(), to)
		}
		if err != nil {
			_ = os.Remove(part.Name()) // the error is told already
		}
	}()
	if err := part.Chmod(0o644); err != nil {
		return err
	}
	d := &download{from: from, to: part, sum: md5.New(), got: got}
	pause := c.pause
	for attempt := 1; ; attempt++ {
		before := d.at
		err := c.fetch(ctx, d)
		var refused *refusal
		if err == nil {
			return d.verify()
		}
		if d.at > before { // it goes on
			attempt, pause = 0, c.pause
		}
		if ctx.Err() != nil || attempt == attempts || errors.As(err, &refused) && !refused.passes() {
			return cmp.Or(ctx.Err(), err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}

// download is a file on its way.
type download struct {
	from string
	to   io.Writer
	at   int64 // bytes that are there
	etag string
	want []byte // the checksum of the whole, nil when the storage has none
	sum  hash.Hash
	got  func(int64)
}

func (d *download) Write(p []byte) (int, error) {
	n, err := d.to.Write(p)
	_, _ = d.sum.Write(p[:n]) // a hash takes everything
	d.at += int64(n)
	d.got(int64(n))
	return n, err
}

func (d *download) verify() error {
	if d.want != nil && !bytes.Equal(d.sum.Sum(nil), d.want) {
		return errors.New("what arrived does not have the checksum of what was uploaded. Download it again")
	}
	return nil
}

// fetch gets what is missing of a file.
func (c *Client) fetch(ctx context.Context, d *download) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.from, nil)
	if err != nil {
		return err
	}
	req.Header.Set("x-ms-version", "2021-08-06")
	if d.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
		req.Header.Set("If-Match", d.etag) // the rest of another file would not fit
	}
	res, err := c.arm.HTTP().Do(req)
	if err != nil {
		return unsigned(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	switch {
	case d.at == 0 && res.StatusCode == http.StatusOK:
		d.etag = res.Header.Get("ETag")
		if sum, err := base64.StdEncoding.DecodeString(res.Header.Get("Content-MD5")); err == nil && len(sum) == md5.Size {
			d.want = sum
		}
	case d.at > 0 && res.StatusCode == http.StatusPartialContent:
	default:
		return refusalOf(res)
	}
	_, err = io.Copy(d, res.Body)
	return err
}

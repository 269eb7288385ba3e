package mlclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5" // what Content-MD5 is made of; it guards against damage, not against people
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Origin is where artifacts that a person's machine uploads come from.
const Origin = "LocalUpload"

const (
	perCall   = 50      // paths that one request for signed URLs may name
	blockSize = 8 << 20 // bytes; files up to that go in one piece
	maxBlocks = 50_000  // of one blob
	parallel  = 4       // files at a time, and blocks of each
	attempts  = 6       // to send a piece
)

// Upload sends files to the workspace's storage, as artifacts below LocalUpload and the container. Nothing
// is held in memory; each piece carries a checksum, and a piece that does not arrive is sent again by itself.
// sent is called, from any goroutine, with the number of bytes that have arrived so far.
func (c *Client) Upload(ctx context.Context, container string, files []File, sent func(int64)) error {
	var total atomic.Int64
	for batch := range slices.Chunk(files, perCall) {
		urls, err := c.signed(ctx, container, batch)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, f := range batch {
			g.Go(func() error {
				if err := c.uploadFile(ctx, f, urls[f.Path], func(n int64) { sent(total.Add(n)) }); err != nil {
					return fmt.Errorf("uploading %s: %w", f.Local, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// signed asks for URLs that take the files' content.
func (c *Client) signed(ctx context.Context, container string, files []File) (map[string]string, error) {
	paths := make([]map[string]string, len(files))
	for i, f := range files {
		paths[i] = map[string]string{"path": f.Path}
	}
	res, err := c.Do(ctx, http.MethodPost, c.Artifacts("/artifacts/batch/metadata/"+Origin+"/"+url.PathEscape(container)), nil, map[string]any{"paths": paths})
	if err != nil {
		return nil, err
	}
	var body struct {
		Infos map[string]struct {
			URI string `json:"contentUri"`
		} `json:"artifactContentInformation"`
	}
	data, err := json.Marshal(res.Body)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return nil, fmt.Errorf("the answer about artifacts cannot be read: %w", err)
	}
	out := map[string]string{}
	for _, f := range files {
		uri := body.Infos[f.Path].URI
		if uri == "" {
			return nil, fmt.Errorf("the workspace gave no address to upload %s to", f.Path)
		}
		out[f.Path] = uri
	}
	return out, nil
}

// uploadFile sends one file: in one piece, or in blocks and then the list of them.
func (c *Client) uploadFile(ctx context.Context, file File, to string, sent func(int64)) error {
	f, err := os.Open(file.Local)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	if file.Size <= c.block {
		if err := c.send(ctx, to, io.NewSectionReader(f, 0, file.Size)); err != nil {
			return err
		}
		sent(file.Size)
		return nil
	}
	size := max(c.block, (file.Size+maxBlocks-1)/maxBlocks)
	var ids []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for offset := int64(0); offset < file.Size; offset += size {
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%016d", len(ids)))
		ids = append(ids, id)
		piece := io.NewSectionReader(f, offset, min(size, file.Size-offset))
		g.Go(func() error {
			if err := c.send(gctx, to+"&comp=block&blockid="+url.QueryEscape(id), piece); err != nil {
				return err
			}
			sent(piece.Size())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	list, err := blockList(ids)
	if err != nil {
		return err
	}
	return c.send(ctx, to+"&comp=blocklist", io.NewSectionReader(bytes.NewReader(list), 0, int64(len(list))))
}

func blockList(ids []string) ([]byte, error) {
	list := struct {
		XMLName xml.Name `xml:"BlockList"`
		Latest  []string
	}{Latest: ids}
	data, err := xml.Marshal(list)
	return append([]byte(xml.Header), data...), err
}

// send sends a piece until it has arrived, unless it never will.
func (c *Client) send(ctx context.Context, to string, piece *io.SectionReader) error {
	pause := c.pause
	for attempt := 1; ; attempt++ {
		err := c.put(ctx, to, piece)
		var refused *refusal
		if err == nil || ctx.Err() != nil || attempt == attempts || errors.As(err, &refused) && !refused.passes() {
			return cmp.Or(ctx.Err(), err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}

// refusal is an error as Blob storage has them.
type refusal struct {
	status  int
	Code    string
	Message string
}

func (r *refusal) Error() string { return fmt.Sprintf("(%s) %s", r.Code, r.Message) }

// passes reports whether the same piece may be taken the next time.
func (r *refusal) passes() bool {
	return r.status >= http.StatusInternalServerError || r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout ||
		r.Code == "Md5Mismatch" || r.Code == "IncompleteBody" // it was damaged on its way
}

func (c *Client) put(ctx context.Context, to string, piece *io.SectionReader) error {
	sum := md5.New()
	if _, err := io.Copy(sum, io.NewSectionReader(piece, 0, piece.Size())); err != nil {
		return err
	}
	// Not the piece itself: the transport may still read it when the request has failed already.
	var body io.Reader = io.NewSectionReader(piece, 0, piece.Size())
	if piece.Size() == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, to, body)
	if err != nil {
		return err
	}
	req.ContentLength = piece.Size()
	req.Header.Set("Content-MD5", base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	req.Header.Set("x-ms-version", "2021-08-06")
	res, err := c.arm.HTTP().Do(req)
	if err != nil {
		return unsigned(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if res.StatusCode == http.StatusCreated {
		return nil
	}
	return refusalOf(res)
}

// refusalOf is an answer as an error.
func refusalOf(res *http.Response) error {
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	out := &refusal{status: res.StatusCode}
	if err != nil || xml.Unmarshal(answer, out) != nil || out.Code == "" {
		out.Code, out.Message = res.Status, strings.TrimSpace(string(answer))
	}
	return out
}

// unsigned is a transport's error without the URL, whose signature is a secret.
func unsigned(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

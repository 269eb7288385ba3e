package image

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// ownLayer is from how many bytes a package has a layer of its own.
	ownLayer = 8 << 20
	// mostLayers bounds the layers of an environment: the kernel stacks no more than some hundred.
	mostLayers = 40
)

// packages installs a recipe and makes layers of it: one for each large package, because environments that
// differ have most of these in common, so that nodes have them too.
func (b *Builder) packages(ctx context.Context, dir string, r *recipe, log func(string)) ([]v1.Layer, error) {
	start := time.Now()
	if err := b.install(ctx, dir, r); err != nil {
		return nil, err
	}
	files, size, err := filesOf(dir, b.base(r.python))
	if err != nil {
		return nil, err
	}
	log(fmt.Sprintf("Installed %d files, %d MB, in %.1f s.", len(files), size>>20, time.Since(start).Seconds()))
	start = time.Now()
	groups := grouped(files)
	layers, made := make([]v1.Layer, len(groups)), make([]bool, len(groups))
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(len(sourcesOf(groups[b])), len(sourcesOf(groups[a]))) })
	for _, i := range order { // what takes longest comes first, so that all processors are busy to the end
		g := groups[i]
		work.Go(func() error {
			key, err := keyOf(ctx, b.base(r.python), g)
			if err != nil {
				return err
			}
			layers[i], made[i], err = b.Registry.layer(ctx, Environments, key, func(w io.Writer) error { return b.writePackages(ctx, w, b.base(r.python), dir, g) })
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	count := 0
	for _, m := range made {
		if m {
			count++
		}
	}
	log(fmt.Sprintf("Compiled and pushed %d of %d layers in %.1f s; the registry has the others.", count, len(layers), time.Since(start).Seconds()))
	return layers, nil
}

// filesOf lists installed files by where they are in the image.
func filesOf(dir string, b base) (files []File, size int64, err error) {
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() == "__pycache__" {
			return fs.SkipDir // what Berth compiles goes there
		}
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		f := LocalFile(path.Join(packagesDir, filepath.ToSlash(rel)), name, info)
		if filepath.Dir(rel) == "bin" {
			if f, err = script(f, b); err != nil {
				return err
			}
		}
		size += f.Size
		files = append(files, f)
		return nil
	})
	return files, size, err
}

// script is a file that people start, with Python where it is in the image instead of where it is here.
func script(f File, b base) (File, error) {
	src, err := f.Open(context.Background())
	if err != nil {
		return File{}, err
	}
	start := make([]byte, 2)
	_, err = io.ReadFull(src, start)
	if string(start) != "#!" {
		return f, src.Close()
	}
	rest, more := io.ReadAll(src)
	if err := errors.Join(err, more, src.Close()); err != nil {
		return File{}, err
	}
	text := bytes.ReplaceAll(append(start, rest...), []byte(b.program()), []byte("/usr/bin/python3"))
	f.Size = int64(len(text))
	f.Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	return f, nil
}

// grouped puts the files of each large package together, those of all small ones, and those that say which
// packages there are. They come in this order, because a node unpacks again whatever is above a layer that differs.
func grouped(files []File) (groups [][]File) {
	byName, size := map[string][]File{}, map[string]int64{}
	for _, f := range files {
		top, _, _ := strings.Cut(strings.TrimPrefix(f.Path, packagesDir+"/"), "/")
		name, _, _ := strings.Cut(top, ".") // numpy.libs is numpy's
		if top == "bin" || strings.HasSuffix(top, ".dist-info") {
			name = about
		}
		byName[name] = append(byName[name], f)
		size[name] += f.Size
	}
	names := slices.SortedFunc(maps.Keys(byName), func(a, b string) int { return cmp.Or(cmp.Compare(size[b], size[a]), strings.Compare(a, b)) })
	names = slices.DeleteFunc(names, func(n string) bool { return n == about || size[n] < ownLayer })
	names = names[:min(len(names), mostLayers)]
	slices.Sort(names)
	for _, n := range names {
		groups = append(groups, byName[n])
		delete(byName, n)
	}
	last := byName[about]
	delete(byName, about)
	groups = append(groups, slices.Concat(slices.Collect(maps.Values(byName))...), last)
	groups = slices.DeleteFunc(groups, func(g []File) bool { return len(g) == 0 })
	for _, g := range groups {
		slices.SortFunc(g, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	}
	return groups
}

// about is the group of what differs whenever a package does: the packages' metadata and scripts.
const about = ".dist-info"

// keyOf names a layer of packages by what goes into it. It reads the files: what wheels say of themselves
// could be made up, and would then end up in the environments of others.
func keyOf(ctx context.Context, b base, files []File) (string, error) {
	all := sha256.New()
	_, _ = fmt.Fprintf(all, "packages\n%s\n%s\n", layout, b.tag()) // a hash takes everything
	for _, f := range files {
		one := sha256.New()
		if err := copyFile(ctx, one, f); err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(all, "%q %o %x\n", f.Path, f.Mode, one.Sum(nil))
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// uncompiled are folders whose bytecode nobody waits for at a start: tests, and the clients of Azure's management
// APIs that azureml-defaults brings, which are 250 MB and which serving a model does not import.
var uncompiled = regexp.MustCompile(`/(tests?|azure/mgmt)/`)

// sourcesOf are the names of those files that get bytecode, below the folder of packages.
func sourcesOf(files []File) (names []string) {
	for _, f := range files {
		if strings.HasSuffix(f.Path, ".py") && !uncompiled.MatchString(f.Path) {
			names = append(names, strings.TrimPrefix(f.Path, packagesDir))
		}
	}
	return names
}

// compiler reads names of files, and writes for each the length of its bytecode and that bytecode. It checks for no
// changes of the source, which there cannot be. There are files that are not for this Python, such as
// templates; they are not imported either, and have a length of 0.
const compiler = `
import gc, marshal, os, sys
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, source_hash
gc.disable()
here, there = sys.argv[1:]
loader, out = SourceFileLoader("", ""), sys.stdout.buffer
for name in map(os.fsdecode, sys.stdin.buffer.read().split(b"\0")):
    with open(here + name, "rb") as f:
        source = f.read()
    try:
        code = MAGIC_NUMBER + (1).to_bytes(4, "little") + source_hash(source) + marshal.dumps(loader.source_to_code(source, there + name))
    except Exception:
        code = b""
    out.write(b"%d\n" % len(code))
    out.write(code)
`

// writePackages writes files and, as a container that cannot write would compile them at each start, their bytecode.
func (b *Builder) writePackages(ctx context.Context, w io.Writer, base base, dir string, files []File) (err error) {
	t := newTarWriter(w)
	sources := sourcesOf(files)
	if len(sources) == 0 {
		return errors.Join(t.addAll(ctx, files), t.w.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	python := base.interpreter()
	cmd := exec.CommandContext(ctx, python[0], append(python[1:], "-S", "-W", "ignore", "-c", compiler, dir, packagesDir)...)
	cmd.Env = base.environ()
	cmd.Stdin = strings.NewReader(strings.Join(sources, "\x00"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	wait, err := begin(cmd)
	if err != nil {
		return fmt.Errorf("compiling the packages: %w", err)
	}
	defer func() {
		if err != nil {
			cancel() // it would wait for somebody to read the rest
		}
		if ended := wait(); ended != nil {
			err = errors.Join(err, fmt.Errorf("compiling the packages: %w: %s", ended, reason(stderr.String())))
		}
	}()
	if err := t.addAll(ctx, files); err != nil {
		return err
	}
	compiled := bufio.NewReaderSize(stdout, 1<<16)
	for _, source := range sources {
		line, err := compiled.ReadString('\n')
		if err != nil {
			return fmt.Errorf("compiling %s: %w", source, err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			return fmt.Errorf("compiling %s: %w", source, err)
		}
		if size == 0 {
			continue
		}
		name := path.Join(packagesDir, path.Dir(source), "__pycache__", strings.TrimSuffix(path.Base(source), ".py")+"."+base.tag()+".pyc")
		err = t.add(ctx, File{Path: name, Size: size, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(compiled, size)), nil }})
		if err != nil {
			return err
		}
	}
	return t.w.Close()
}

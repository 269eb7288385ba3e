package mlclient

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// File is a file on this machine, and the path it gets among the artifacts.
type File struct {
	Path  string // with slashes, relative
	Local string
	Size  int64 // bytes
}

// Tree lists a file, or all files below a folder. Their paths begin with the base name of what was
// named, as azureml-core has it. Links to files are followed; those to folders are left out, as there.
func Tree(root string) (base string, files []File, err error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return "", nil, err
	}
	base = filepath.Base(abs)
	real, err := filepath.EvalSymlinks(abs) // what was named may be a link itself
	if err != nil {
		return "", nil, err
	}
	err = filepath.WalkDir(real, func(local string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(local)
		if err != nil || info.IsDir() {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a folder, so it cannot be uploaded. Move it out of %s", local, root)
		}
		rel, err := filepath.Rel(real, local)
		if err != nil {
			return err
		}
		files = append(files, File{Path: path.Join(base, filepath.ToSlash(rel)), Local: local, Size: info.Size()})
		return nil
	})
	return base, files, err
}

// Archive packs a tree into a compressed tar file in a temporary folder, which the caller removes.
func Archive(files []File, dir, name string) (File, error) {
	local := filepath.Join(dir, name)
	f, err := os.OpenFile(local, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return File{}, err
	}
	if err := errors.Join(pack(f, files), f.Close()); err != nil {
		return File{}, fmt.Errorf("packing the source folder: %w", err)
	}
	info, err := os.Stat(local)
	if err != nil {
		return File{}, err
	}
	return File{Path: name, Local: local, Size: info.Size()}, nil
}

func pack(w io.Writer, files []File) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, file := range files {
		if err := add(t, file); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func add(t *tar.Writer, file File) error {
	f, err := os.Open(file.Local)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: file.Path, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if _, err = io.Copy(t, f); err != nil {
		return fmt.Errorf("%s: %w", file.Local, err)
	}
	return nil
}

// Command imagetar puts one static binary into an image of its own and writes the image
// as an archive that containerd imports:
//
//	imagetar --name berth.dev/hello:1 --binary bin/hello --out images/hello.tar
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nobody is the user that the images run as.
const nobody = "65532:65532"

func main() {
	image := flag.String("name", "", "name and tag of the image")
	binary := flag.String("binary", "", "static binary, the image's entry point")
	out := flag.String("out", "", "archive to write")
	flag.Parse()
	if err := write(*image, *binary, *out); err != nil {
		fmt.Fprintln(os.Stderr, "imagetar:", err)
		os.Exit(1)
	}
}

func write(image, binary, out string) error {
	if image == "" || binary == "" || out == "" {
		return errors.New("--name, --binary and --out are all required")
	}
	tag, err := name.NewTag(image)
	if err != nil {
		return err
	}
	entry := "/" + filepath.Base(binary)
	content, err := layerOf(binary, entry)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithCompressionLevel(0))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	// Without them containerd takes the image for another platform's.
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: []string{entry}, User: nobody}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, img)
}

// layerOf is a layer with the binary and nothing else. It has no times, so that the same
// binary makes the same image.
func layerOf(binary, entry string) ([]byte, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	header := &tar.Header{Name: entry[1:], Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

package image

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// sdkImages are the base images that azureml-core names when its user named none. They have Python
// and nothing that a model would need beyond it, so Berth's own takes their place.
const sdkImages = "mcr.microsoft.com/azureml/"

// baseImage is the image that an environment's docker.baseImage and docker.baseImageRegistry.address name together, nil
// where Berth's own base takes its place.
func baseImage(image, address string) (name.Reference, error) {
	ref := strings.TrimSpace(image)
	if ref == "" || strings.HasPrefix(ref, sdkImages) {
		return nil, nil
	}
	if address != "" && !strings.HasPrefix(ref, address+"/") {
		ref = address + "/" + ref
	}
	return name.ParseReference(ref)
}

// BaseRegistry is the host, with its port, that is asked for an environment's base image and shown the credentials of
// docker.baseImageRegistry: they belong to it and to no other. It is "" where none is asked.
func BaseRegistry(image, address string) string {
	ref, err := baseImage(image, address)
	if ref == nil || err != nil { // the builder says what is wrong with it
		return ""
	}
	return strings.ToLower(ref.Context().RegistryStr())
}

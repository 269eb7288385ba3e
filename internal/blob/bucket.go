package blob

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob:// buckets
	_ "gocloud.dev/blob/fileblob"  // file:// buckets
	_ "gocloud.dev/blob/gcsblob"   // gs:// buckets
	_ "gocloud.dev/blob/s3blob"    // s3:// buckets
	"gocloud.dev/gcerrors"
)

// kind is what has to be said of a cloud's buckets when they cannot be used.
type kind struct {
	example     string
	credentials string // where its library looks for them
}

var clouds = map[string]kind{
	"s3": {"s3://bucket?region=eu-west-1", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, a profile of the AWS CLI, or the machine's role"},
	"gs": {"gs://bucket", "GOOGLE_APPLICATION_CREDENTIALS in the environment, gcloud auth application-default login, or the machine's service account"},
	"azblob": {
		"azblob://container",
		"AZURE_STORAGE_ACCOUNT in the environment, with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN or an identity that azidentity finds, or AZURE_STORAGE_CONNECTION_STRING",
	},
}

// maxKey is how long a key may be in every cloud.
const maxKey = 1024 // bytes

const forms = "s3://bucket?region=…&endpoint=…, gs://bucket, azblob://container or file:///folder"

// Folder is the URL of a folder as a bucket. The folder is made when missing.
func Folder(dir string) string {
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}
	return u.String()
}

// ValidURL checks what can be known of a bucket's URL without opening it.
func ValidURL(text string) error {
	_, err := parse(text)
	return err
}

// parse reads a bucket's URL. Its errors do not show the URL's user information and parameters: somebody
// may have put a password there.
func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the text is not a URL. Give one like %s", forms)
	}
	_, cloud := clouds[u.Scheme]
	switch {
	case u.Scheme == "":
		return nil, fmt.Errorf("a bucket's URL begins with its kind. Give one like %s", forms)
	case !cloud && u.Scheme != "file":
		return nil, fmt.Errorf("Berth has no buckets of the kind %s. Give a URL like %s", u.Scheme, forms) //nolint:staticcheck // a name
	case u.User != nil:
		return nil, errors.New("credentials do not belong in a bucket's URL. Put them where the cloud's own tools look for them: " + clouds[u.Scheme].credentials)
	case cloud && u.Host == "":
		return nil, fmt.Errorf("the URL names no bucket. Give one like %s", clouds[u.Scheme].example)
	case cloud && strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("a bucket's URL has no path. To keep blobs below %[1]s in the bucket, give %[2]s://%[3]s?prefix=%[1]s/", strings.Trim(u.Path, "/"), u.Scheme, u.Host)
	case !cloud && (u.Host != "" || !strings.HasPrefix(u.Path, "/")):
		return nil, errors.New("a folder's URL has three slashes and the whole path, like file:///var/lib/berth/blobs")
	}
	return u, nil
}

// reachable is how long a bucket may take to answer when it is opened.
const reachable = 30 * time.Second

// openBucket opens the bucket at a URL and sees that blobs can be kept there.
func openBucket(ctx context.Context, text string) (*blob.Bucket, *url.URL, error) {
	u, err := parse(text)
	if err != nil {
		return nil, nil, err
	}
	at := *u
	if u.Scheme == "file" {
		q := at.Query()
		q.Set("create_dir", "true")
		q.Set("dir_file_mode", "0700")
		q.Set("no_tmp_dir", "true") // a rename is whole or not at all within one file system only
		at.RawQuery = q.Encode()
	}
	b, err := blob.OpenBucket(ctx, at.String())
	if err != nil {
		return nil, nil, unusable(u, err)
	}
	ctx, cancel := context.WithTimeout(ctx, reachable)
	defer cancel()
	if err := try(ctx, b); err != nil {
		_ = b.Close() // the error that matters is the other
		return nil, nil, unusable(u, err)
	}
	return b, u, nil
}

// try lists, writes, reads and deletes. Credentials that lack one of these would be found out by a user's upload.
func try(ctx context.Context, b *blob.Bucket) error {
	const key = "berth-probe" + mark
	if _, _, err := b.ListPage(ctx, blob.FirstPageToken, 1, nil); err != nil {
		return fmt.Errorf("listing its objects: %w", err)
	}
	if err := b.WriteAll(ctx, key, []byte("Berth sees whether it can write here."), nil); err != nil {
		return fmt.Errorf("writing an object: %w", err)
	}
	if _, err := b.ReadAll(ctx, key); err != nil {
		return fmt.Errorf("reading an object: %w", err)
	}
	if err := b.Delete(ctx, key); err != nil {
		return fmt.Errorf("deleting an object: %w", err)
	}
	return nil
}

// unusable says why the bucket at a URL cannot be used, and what to do.
func unusable(u *url.URL, err error) error {
	k, cloud := clouds[u.Scheme]
	if !cloud {
		return fmt.Errorf("the folder %s cannot keep blobs: %s. Give a folder that Berth may write to", u.Path, plainly(err))
	}
	advice := "Its credentials are " + k.credentials
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		advice = fmt.Sprintf("It did not answer within %v: see that this machine reaches it, and that region, endpoint and credentials are right. ", reachable) + advice
	case gcerrors.Code(err) == gcerrors.NotFound:
		advice = "Make the bucket, which Berth does not, or correct its name, region or endpoint. " + advice
	case gcerrors.Code(err) == gcerrors.PermissionDenied:
		advice = "They have to be allowed to list, read, write and delete its objects. " + advice
	}
	return fmt.Errorf("the bucket %s://%s cannot be used: %s. %s", u.Scheme, u.Host, plainly(err), advice)
}

// parameters of a URL within a message: a signature may be among them, or what somebody took for a parameter.
var parameters = regexp.MustCompile(`\?[^\s"']+`)

// plainly is an error of a cloud's library in a line, without what may be secret.
func plainly(err error) string {
	text := err.Error()
	var azure *azcore.ResponseError
	if errors.As(err, &azure) { // it prints the whole answer
		text = fmt.Sprintf("%s (status %d)", azure.ErrorCode, azure.StatusCode)
	}
	text = parameters.ReplaceAllString(strings.Join(strings.Fields(text), " "), "?…")
	return strings.TrimRight(text, ". ")
}

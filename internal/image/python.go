package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
)

// defaultPython is the version that an environment gets whose definition leaves it open.
const defaultPython = "3.11"

// sdkDefaults are the versions of Python that azureml-core writes into a definition when its
// author named none: 1.61 and earlier ones.
var sdkDefaults = []string{"3.10.18", "3.8.13", "3.6.2", "3.6.13", "3.8.16"}

// pythons lists the versions that there are base images of, the oldest first.
func (b *Builder) pythons() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(b.Bases, "python*.tar"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range found {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "python"), ".tar"))
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(minor(a), minor(b)) })
	return out, nil
}

// minor is the second number of a version.
func minor(version string) int {
	n, _ := strconv.Atoi(strings.SplitN(version+".", ".", 3)[1]) // 0 is as far off as any
	return n
}

// nearest is the version that is closest to another one, the newer of two that are equally close.
func nearest(have []string, to string) string {
	best, distance := "", math.MaxInt
	for _, v := range have {
		if d := max(minor(v)-minor(to), minor(to)-minor(v)); d <= distance {
			best, distance = v, d
		}
	}
	return best
}

// choosePython finds the version for a requirement of conda's, "" for none. Of several that meet it, it is
// the one nearest to the default. For a version that only azureml-core chose it is the nearest to
// that one, because packages that were pinned with it have wheels for its neighbours.
func choosePython(have []string, requirement string) (python, note string, err error) {
	if requirement == "" {
		return nearest(have, defaultPython), "", nil
	}
	if chosen := strings.TrimLeft(requirement, "="); slices.Contains(sdkDefaults, chosen) {
		python = nearest(have, chosen)
		return python, fmt.Sprintf("The definition says Python %s, which azureml-core writes when nobody chose one; Python %s is used, the nearest that Berth has.", chosen, python), nil
	}
	var fit []string
	for _, v := range have {
		ok, err := meets(v, requirement)
		if err != nil {
			return "", "", err
		}
		if ok {
			fit = append(fit, v)
		}
	}
	if len(fit) == 0 {
		return "", "", fmt.Errorf("asks for Python %s, and Berth's base images have %s", strings.TrimLeft(requirement, "="), strings.Join(have, ", "))
	}
	return nearest(fit, defaultPython), "", nil
}

var condition = regexp.MustCompile(`^(<=|>=|!=|~=|<|>|={0,2})(\d+)(?:\.(\d+|\*))?(?:\.(\d+|\*)\w*)?(?:=\w*)?$`)

// meets tells whether a version of Python, such as 3.9, meets conditions, such as >=3.8,<3.11 or =3.9.13. What
// makes the difference between wheels are the first two numbers; any third one is met by a base with these.
func meets(python, conditions string) (bool, error) {
	for text := range strings.SplitSeq(conditions, ",") {
		m := condition.FindStringSubmatch(text)
		if m == nil {
			return false, fmt.Errorf("has the version %q of Python, which Berth cannot read", conditions)
		}
		third, err := strconv.Atoi(m[4])
		if err != nil {
			third = -1 // none, or any
		}
		major, _ := strconv.Atoi(m[2]) // a number of more than 18 digits is no Python's
		order, two := cmp.Compare(3, major), false
		if n, err := strconv.Atoi(m[3]); err == nil {
			two = true
			order = cmp.Or(order, cmp.Compare(minor(python), n))
		}
		ok := false
		switch m[1] {
		case "<":
			ok = order < 0 || order == 0 && third > 0
		case "<=":
			ok = order <= 0
		case ">":
			ok = order > 0 || order == 0 && third >= 0
		case ">=":
			ok = order >= 0
		case "!=":
			ok = order != 0 || third >= 0
		case "~=":
			ok = order == 0 || order > 0 && two && third < 0 && major == 3
		default:
			ok = order == 0
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// base is a base image of Berth's own: the tar file of its root, and a folder of the same name without .tar.
type base struct{ python, root string }

func (b *Builder) base(python string) base {
	return base{python: python, root: filepath.Join(b.Bases, "python"+python)}
}

// program is where Python is in the unpacked root.
func (b base) program() string { return filepath.Join(b.root, "usr/bin/python"+b.python) }

// interpreter is the command of the base's own Python, run here by its own loader, which takes no rights and nothing
// of this machine.
func (b base) interpreter() []string {
	libraries := filepath.Join(b.root, "lib/x86_64-linux-gnu")
	return []string{filepath.Join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries + ":" + filepath.Join(b.root, "usr/lib/x86_64-linux-gnu"), b.program()}
}

func (b base) environ() []string {
	return []string{"PYTHONHOME=" + filepath.Join(b.root, "usr"), "PYTHONHASHSEED=0"}
}

// tag is what this Python calls itself in names of files with bytecode.
func (b base) tag() string { return "cpython-" + strings.ReplaceAll(b.python, ".", "") }

// image is the base as an image.
func (b *Builder) image(ctx context.Context, of base) (v1.Image, error) {
	file := of.root + ".tar"
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("the base image is not at %s; make images makes it", file)
	}
	l, err, _ := b.building.Do(fmt.Sprintf("base:%s:%d:%d", file, info.Size(), info.ModTime().UnixNano()), func() (any, error) {
		return newLayer(ctx, func(w io.Writer) error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			return errors.Join(err, f.Close())
		})
	})
	if err != nil {
		return nil, err
	}
	return compose(empty.Image, v1.Config{Env: []string{"PATH=" + packagesDir + "/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}}, l.(*layer))
}

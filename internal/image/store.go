package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// Store keeps images in a directory: images/DIGEST/ holds one image's files and manifest, names/NAME the digest
// that a name stands for, base/ what images are made from, tmp/ builds under way. Several processes may use one
// directory at once.
type Store struct {
	Dir string
}

const digestPrefix = "sha256:"

// List returns all images, the newest first, each once per name; one without a name has none.
func (s *Store) List(context.Context) ([]firerunner.Image, error) {
	found, err := s.digests()
	if err != nil {
		return nil, err
	}
	named, err := s.names()
	if err != nil {
		return nil, err
	}
	var all []firerunner.Image
	for _, digest := range found {
		m, err := readManifest(s.imageDir(digest))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed a moment ago
		}
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Internal, "read the manifest of image %s: %w", short(digest), err)
		}
		before := len(all)
		for name, of := range named {
			if of == digest {
				all = append(all, m.image(s.imageDir(digest), name))
			}
		}
		if len(all) == before {
			all = append(all, m.image(s.imageDir(digest), ""))
		}
	}
	slices.SortFunc(all, func(a, b firerunner.Image) int {
		if c := b.BuiltAt.Compare(a.BuiltAt); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, nil
}

// Resolve finds an image by name, by digest, or by the first characters (at least 6) of a digest.
func (s *Store) Resolve(ctx context.Context, ref string) (firerunner.Image, error) {
	digest, name, err := s.find(ref)
	if err != nil {
		return firerunner.Image{}, err
	}
	m, err := s.inspect(digest)
	if err != nil {
		return firerunner.Image{}, err
	}
	return m.image(s.imageDir(digest), name), nil
}

// Inspect returns an image's manifest; ref is as for Resolve.
func (s *Store) Inspect(_ context.Context, ref string) (Manifest, error) {
	digest, _, err := s.find(ref)
	if err != nil {
		return Manifest{}, err
	}
	m, err := s.inspect(digest)
	if err != nil {
		return Manifest{}, err
	}
	return *m, nil
}

func (s *Store) inspect(digest string) (*Manifest, error) {
	m, err := readManifest(s.imageDir(digest))
	if err != nil {
		return nil, firerunner.Errorf(firerunner.NotFound, "read the manifest of image %s: %w", short(digest), err)
	}
	return m, nil
}

// Verify reads all of an image and compares it with its manifest, and the manifest with the digest.
func (s *Store) Verify(_ context.Context, ref string) error {
	digest, _, err := s.find(ref)
	if err != nil {
		return err
	}
	m, err := s.inspect(digest)
	if err != nil {
		return err
	}
	real := Manifest{Cmdline: m.Cmdline}
	if err := real.measure(s.imageDir(digest)); err != nil {
		return firerunner.Errorf(firerunner.Internal, "verify image %s: %w", short(digest), err)
	}
	for _, name := range []string{kernelFile, initrdFile, rootfsFile} {
		if real.Files[name] != m.Files[name] {
			return firerunner.Errorf(firerunner.Internal, "verify image %s: %s is not what was built", short(digest), name).
				WithHint("remove the image and build it again")
		}
	}
	if real.Digest != digest || m.Digest != digest {
		return firerunner.Errorf(firerunner.Internal, "verify image %s: the manifest is not what was built", short(digest)).
			WithHint("remove the image and build it again")
	}
	return nil
}

// Remove removes an image and the names that stand for it. It refuses while inUse says that the image with that
// digest is in use.
func (s *Store) Remove(ctx context.Context, ref string, inUse func(digest string) bool) error {
	digest, _, err := s.find(ref)
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if inUse != nil && inUse(digest) {
		return firerunner.Errorf(firerunner.Conflict, "remove image %s: microVMs use it", short(digest)).
			WithHint("wait until they have ended, or build another image under its name")
	}
	named, err := s.names()
	if err != nil {
		return err
	}
	for name, of := range named {
		if of == digest {
			if err := os.Remove(filepath.Join(s.Dir, "names", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return firerunner.Errorf(firerunner.Unavailable, "remove the name %s: %w", name, err)
			}
		}
	}
	trash, remove, err := scratch(ctx, s.tmp())
	if err != nil {
		return err
	}
	defer remove() // once it is moved, a crash here leaves a directory that the next build removes
	if err := os.Rename(s.imageDir(digest), filepath.Join(trash, "image")); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "remove image %s: %w", short(digest), err)
	}
	return nil
}

// Prune removes the images that have no name any more, were built before a time, and that inUse does not say are
// in use. It returns their digests.
func (s *Store) Prune(ctx context.Context, before time.Time, inUse func(digest string) bool) ([]string, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, img := range all {
		if img.Name != "" || !img.BuiltAt.Before(before) || inUse != nil && inUse(img.Digest) {
			continue
		}
		if err := s.Remove(ctx, img.Digest, inUse); err != nil {
			return removed, err
		}
		removed = append(removed, img.Digest)
	}
	return removed, nil
}

// install moves the finished image in dir into the store and gives it its name. Of an image that is there already
// only the manifest is replaced.
func (s *Store) install(ctx context.Context, dir string, m *Manifest) (firerunner.Image, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return firerunner.Image{}, err
	}
	defer unlock()
	target := s.imageDir(m.Digest)
	err = os.MkdirAll(filepath.Dir(target), 0o755)
	if err == nil {
		if err = os.Rename(dir, target); errors.Is(err, fs.ErrExist) {
			// The same bytes, perhaps of other parts: what they were last made of is what the next build looks for.
			err = os.Rename(filepath.Join(dir, manifestFile), filepath.Join(target, manifestFile))
		}
	}
	if err != nil {
		return firerunner.Image{}, firerunner.Errorf(firerunner.Unavailable, "keep image %s: %w", short(m.Digest), err)
	}
	return m.image(target, m.Recipe.Name), s.name(m.Recipe.Name, m.Digest)
}

// name makes a name stand for a digest. The caller holds the lock.
func (s *Store) name(name, digest string) error {
	path := filepath.Join(s.Dir, "names", name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new~", []byte(digest+"\n"), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new~", path)
	}
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "name image %s: %w", short(digest), err)
	}
	return nil
}

// find finds the digest that ref means, and the name if it is one.
func (s *Store) find(ref string) (digest, name string, err error) {
	named, err := s.names()
	if err != nil {
		return "", "", err
	}
	if digest, found := named[ref]; found {
		return digest, ref, nil
	}
	all, err := s.digests()
	if err != nil {
		return "", "", err
	}
	prefix := strings.TrimPrefix(ref, digestPrefix)
	var matches []string
	for _, d := range all {
		if len(prefix) >= 6 && strings.HasPrefix(strings.TrimPrefix(d, digestPrefix), prefix) {
			matches = append(matches, d)
		}
	}
	switch len(matches) {
	case 1:
		return matches[0], "", nil
	case 0:
		return "", "", firerunner.Errorf(firerunner.NotFound, "find image %q: there is none", ref).
			WithHint("firerunner image build --gitlab-runner PATH makes one; firerunner image list shows them")
	default:
		return "", "", firerunner.Errorf(firerunner.Invalid, "find image %q: %d images begin so", ref, len(matches))
	}
}

func (s *Store) imageDir(digest string) string {
	return filepath.Join(s.Dir, "images", strings.TrimPrefix(digest, digestPrefix))
}

func (s *Store) tmp() string { return filepath.Join(s.Dir, "tmp") }

func (s *Store) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "make the image directory: %w", err)
	}
	return lock(ctx, filepath.Join(s.Dir, "lock"))
}

func (s *Store) digests() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "images"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, firerunner.Errorf(firerunner.Unavailable, "list images: %w", err)
	}
	var all []string
	for _, e := range entries {
		if hexSHA.MatchString(e.Name()) {
			all = append(all, digestPrefix+e.Name())
		}
	}
	return all, nil
}

func (s *Store) names() (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, "names"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, firerunner.Errorf(firerunner.Unavailable, "list image names: %w", err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if !names.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(s.Dir, "names", e.Name()))
		digest := strings.TrimSpace(string(text))
		if err == nil && hexSHA.MatchString(strings.TrimPrefix(digest, digestPrefix)) {
			all[e.Name()] = digest
		}
	}
	return all, nil
}

func trimDigest(digest string) string { return strings.TrimPrefix(digest, digestPrefix) }

// short is a digest as people read it.
func short(digest string) string {
	hex := trimDigest(digest)
	return hex[:min(12, len(hex))]
}

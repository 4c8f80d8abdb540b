package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// base is what images are made from: a Debian system as a tar file, and a kernel with its modules.
type base struct {
	Key           string       `json:"key"`    // over what was asked for
	Digest        string       `json:"digest"` // over what came of it
	KernelVersion string       `json:"kernel_version"`
	Modules       []moduleWish `json:"modules"` // in the order of loading; the file names are in Name
	Packages      []Package    `json:"packages"`
	BuiltAt       time.Time    `json:"built_at"`

	dir string
}

const (
	baseFile    = "base.json"
	rootTar     = "root.tar"
	modulesName = "modules"
)

// base finds the base for this recipe, or makes it.
func (r *run) base(ctx context.Context) (*base, error) {
	sources, err := r.sources()
	if err != nil {
		return nil, err
	}
	key := r.recipe.baseKey(sources)
	return r.keep(ctx, key, func(dir string) error { return r.makeBase(ctx, dir, key, sources) })
}

func readBase(dir string) (*base, error) {
	b := base{dir: dir}
	if err := readJSON(filepath.Join(dir, baseFile), &b); err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "read the base: %w", err)
	}
	return &b, nil
}

// makeBase lets mmdebstrap make the system, and fetch the kernel's package on the way with the same package lists.
func (r *run) makeBase(ctx context.Context, dir, key, sources string) error {
	for _, tool := range []string{"mmdebstrap", "apt-get", "dpkg-deb", "tar"} {
		if _, err := look(tool); err != nil {
			return err
		}
	}
	b := base{Key: key, BuiltAt: r.Now().UTC()}
	kernelDir, list := filepath.Join(r.dir, "kernel"), filepath.Join(r.dir, "apt.sources")
	err := os.MkdirAll(filepath.Join(dir, modulesName), 0o755)
	if err == nil {
		err = os.Mkdir(kernelDir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(list, []byte(sources), 0o644)
	}
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "make the base: %w", err)
	}
	err = r.step("base", func() (string, error) {
		began := r.Now()
		return r.recipe.Suite, r.Exec(ctx, Command{
			Args: r.mmdebstrap(list, kernelDir, filepath.Join(dir, rootTar)),
			Env:  r.mmdebstrapEnv(),
			Stderr: &lineWriter{each: func(line string) {
				if detail, found := strings.CutPrefix(line, "I: "); found {
					r.progress(Progress{Step: "base", Detail: detail, Elapsed: r.Now().Sub(began)})
				}
			}},
		})
	})
	if err != nil {
		return err
	}
	return r.step("kernel", func() (string, error) {
		if err := r.unpackKernel(ctx, &b, kernelDir, dir); err != nil {
			return "", err
		}
		err := b.describe(dir)
		if err == nil && len(b.Packages) == 0 {
			err = errNoPackages
		}
		if err != nil {
			return "", firerunner.Errorf(firerunner.Unavailable, "read the base: %w", err)
		}
		return b.KernelVersion, nil
	})
}

// unpackKernel takes what is needed out of the kernel's package.
func (r *run) unpackKernel(ctx context.Context, b *base, from, to string) error {
	found, _ := filepath.Glob(filepath.Join(from, "linux*.deb"))
	if len(found) == 0 {
		return kernelError(errors.New("apt did not fetch it"))
	}
	files := kernelFiles{modules: map[string][]byte{}}
	for _, deb := range found {
		if err := r.readDeb(ctx, deb, files.add); err != nil {
			return kernelError(err)
		}
	}
	parts, err := files.choose(guestModules, func(name string, data []byte) ([]byte, error) { return r.decompress(ctx, name, data) })
	if err != nil {
		return kernelError(err)
	}
	b.KernelVersion = parts.Version
	if r.recipe.ownInit() {
		if err := r.unpackBusybox(ctx, from, to); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(to, kernelFile), parts.Image, 0o644); err != nil {
		return kernelError(err)
	}
	for _, m := range parts.Modules {
		b.Modules = append(b.Modules, moduleWish{m.Name, m.Condition})
		if err := os.WriteFile(filepath.Join(to, modulesName, m.Name), m.Data, 0o644); err != nil {
			return kernelError(err)
		}
	}
	return nil
}

// readDeb reads the files of a Debian package.
func (r *run) readDeb(ctx context.Context, deb string, each func(io.Reader) error) error {
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := r.Exec(ctx, Command{Args: []string{"dpkg-deb", "--fsys-tarfile", deb}, Stdout: write})
		_ = write.CloseWithError(err)
		done <- err
	}()
	err := each(read)
	if err == nil {
		_, err = io.Copy(io.Discard, read) // padding; or else dpkg-deb would not end well
	}
	_ = read.Close()
	if execErr := <-done; err == nil {
		err = execErr
	}
	return err
}

func (r *run) decompress(ctx context.Context, name string, data []byte) ([]byte, error) {
	if path.Ext(name) != ".xz" {
		return unpack(append(data, 0, 0, 0, 0))
	}
	packed := filepath.Join(r.dir, filepath.Base(name))
	if err := os.WriteFile(packed, data, 0o600); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err := r.Exec(ctx, Command{Args: []string{"xz", "-dc", packed}, Stdout: &out})
	return out.Bytes(), err
}

// describe lists the packages, computes the digest, and writes base.json.
func (b *base) describe(dir string) error {
	status, err := fileInTar(filepath.Join(dir, rootTar), "var/lib/dpkg/status")
	if err != nil && firerunner.CodeOf(err) != firerunner.NotFound { // a foreign system may have other tools
		return err
	}
	b.Packages = installed(status)
	rootSum, err := fileSHA256(filepath.Join(dir, rootTar))
	if err != nil {
		return err
	}
	kernelSum, err := fileSHA256(filepath.Join(dir, kernelFile))
	if err != nil {
		return err
	}
	parts := []any{"base", rootSum, kernelSum, b.Modules}
	if busybox, err := fileSHA256(filepath.Join(dir, busyboxName)); err == nil {
		parts = append(parts, busybox)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b.Digest = keyOf(parts...)
	return writeJSON(filepath.Join(dir, baseFile), b)
}

// fileInTar reads one file out of a tar file.
func fileInTar(tarPath, name string) ([]byte, error) {
	f, err := os.Open(tarPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := tar.NewReader(bufio.NewReader(f))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil, firerunner.Errorf(firerunner.NotFound, "find %s in %s: it is not there", name, tarPath)
		}
		if err != nil {
			return nil, err
		}
		if path.Clean("/"+h.Name) == "/"+name {
			return io.ReadAll(io.LimitReader(in, 64<<20))
		}
	}
}

// installed reads dpkg's status file: deb822(5) paragraphs with Package, Status and Version.
func installed(status []byte) []Package {
	var all []Package
	for paragraph := range strings.SplitSeq(string(status), "\n\n") {
		var p Package
		ok := false
		for line := range strings.Lines(paragraph) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "Package":
				p.Name = value
			case "Version":
				p.Version = value
			case "Status":
				ok = value == "install ok installed"
			}
		}
		if ok {
			all = append(all, p)
		}
	}
	return all
}

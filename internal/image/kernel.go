package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// kernelParts is what of a Debian kernel package an image needs.
type kernelParts struct {
	Version string // 6.1.0-56-cloud-amd64
	Image   []byte // vmlinux, or the bzImage as it was
	Modules []Module
}

// kernelFiles collects the files of kernel packages: one has the kernel and its modules, or two share them.
type kernelFiles struct {
	parts   kernelParts
	modules map[string][]byte // by file name; some are compressed
}

// add reads a package as a tar stream (dpkg-deb --fsys-tarfile).
func (k *kernelFiles) add(r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		version, isKernel := strings.CutPrefix(name, "vmlinuz-")
		isModule := strings.Contains(name, ".ko")
		if h.Typeflag != tar.TypeReg || h.Size > maxKernel || !isKernel && !isModule {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		if !isKernel {
			k.modules[name] = data // only a few of a thousand are needed, so they are unpacked late
			continue
		}
		k.parts.Version, k.parts.Image = version, data
		if elfImage, err := vmlinux(data); err == nil {
			k.parts.Image = elfImage
		}
	}
}

// choose returns the kernel with the wished modules. Decompress undoes the compression of a module by the ending of its
// name (.xz); some releases have it.
func (k *kernelFiles) choose(wishes []moduleWish, decompress func(name string, data []byte) ([]byte, error)) (kernelParts, error) {
	if k.parts.Image == nil {
		return k.parts, fmt.Errorf("no kernel in the package")
	}
	set := moduleSet{files: k.modules, decompress: decompress}
	var err error
	k.parts.Modules, err = set.choose(wishes)
	return k.parts, err
}

// moduleSet chooses modules by name, and what they depend on.
type moduleSet struct {
	files      map[string][]byte
	decompress func(name string, data []byte) ([]byte, error)
	chosen     []Module
}

// choose returns the wished modules that exist, each after those that it depends on. One that does not exist is
// built into the kernel, or its device is not for this kernel; the boot shows which.
func (s *moduleSet) choose(wishes []moduleWish) ([]Module, error) {
	for _, w := range wishes {
		if err := s.add(w.Name, w.Condition, 0); err != nil {
			return nil, err
		}
	}
	return s.chosen, nil
}

func (s *moduleSet) add(name, condition string, depth int) error {
	if depth > 16 {
		return fmt.Errorf("module %s: dependencies go in a circle", name)
	}
	file, data, err := s.find(name)
	if err != nil || data == nil {
		return err
	}
	depends, err := moduleDepends(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, d := range depends {
		if err := s.add(d, condition, depth+1); err != nil {
			return err
		}
	}
	for i := range s.chosen {
		if have := &s.chosen[i]; have.Name == file {
			if !slices.Contains(strings.Split(have.Condition, ","), condition) {
				have.Condition += "," + condition
			}
			return nil
		}
	}
	s.chosen = append(s.chosen, Module{Name: file, Condition: condition, Data: data})
	return nil
}

// find finds a module's file by the module's name: in file names, - and _ are the same.
func (s *moduleSet) find(name string) (string, []byte, error) {
	for file, data := range s.files {
		stem, ending, _ := strings.Cut(file, ".ko")
		if strings.ReplaceAll(stem, "-", "_") != strings.ReplaceAll(name, "-", "_") {
			continue
		}
		if ending == "" {
			return file, data, nil
		}
		plain, err := s.decompress(file, data)
		if err != nil {
			return "", nil, fmt.Errorf("module %s: %w", name, err)
		}
		delete(s.files, file)
		s.files[stem+".ko"] = plain
		return stem + ".ko", plain, nil
	}
	return "", nil, nil
}

// moduleDepends reads what a module says that it depends on, from its .modinfo section: key=value, each ended by
// a zero byte.
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, found := strings.CutPrefix(entry, "depends="); found && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// kernelError says what was done when a kernel package could not be read.
func kernelError(err error) error {
	return firerunner.Errorf(firerunner.Unavailable, "read the kernel package: %w", err)
}

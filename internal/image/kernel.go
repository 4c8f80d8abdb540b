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

// readKernel reads the files of a kernel package as a tar stream (dpkg-deb --fsys-tarfile). Decompress undoes
// the compression of a module by the ending of its name (.xz); some releases have it.
func readKernel(r io.Reader, wishes []moduleWish, decompress func(name string, data []byte) ([]byte, error)) (kernelParts, error) {
	var parts kernelParts
	modules := map[string][]byte{} // by file name, uncompressed ending
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return parts, err
		}
		name := path.Base(h.Name)
		version, isKernel := strings.CutPrefix(name, "vmlinuz-")
		stem, _, isModule := strings.Cut(name, ".ko")
		if h.Typeflag != tar.TypeReg || h.Size > maxKernel || !isKernel && !isModule {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return parts, err
		}
		if isKernel {
			parts.Version, parts.Image = version, data
			if elfImage, err := vmlinux(data); err == nil {
				parts.Image = elfImage
			}
			continue
		}
		if ending := path.Ext(name); ending != ".ko" {
			// Only a few of a thousand are needed, so unpack late.
			modules[stem+".ko"+ending] = data
		} else {
			modules[name] = data
		}
	}
	if parts.Image == nil {
		return parts, fmt.Errorf("no kernel in the package")
	}
	set := moduleSet{files: modules, decompress: decompress}
	var err error
	parts.Modules, err = set.choose(wishes)
	return parts, err
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

package flintlocktest

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// walk finds the folder that a path leads to, following links as if the tree were /. With create it makes what is
// missing.
func (t *tree) walk(name string, create bool) (string, error) {
	at, links := ".", 0
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		info, err := t.root.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) && create {
			if err := t.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			t.inLayer[next] = true
			if !t.privilege {
				t.owned[next] = owned{mode: unix.S_IFDIR | 0o755}
			}
			at = next
			continue
		}
		switch {
		case err != nil:
			return "", err
		case info.IsDir():
			at = next
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxSymlinks {
				return "", errors.New("too many levels of links")
			}
			target, err := t.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		default:
			return "", fmt.Errorf("%s is not a folder", next)
		}
	}
	return at, nil
}

// file finds a regular file, following links as if the tree were /.
func (t *tree) file(name string) (string, error) {
	for range maxSymlinks {
		dir, err := t.walk(path.Dir(path.Clean("/" + name)[1:]), false)
		if err != nil {
			return "", err
		}
		at := path.Join(dir, path.Base(path.Clean("/"+name)))
		info, err := t.root.Lstat(at)
		switch {
		case err != nil:
			return "", err
		case info.Mode().IsRegular():
			return at, nil
		case info.Mode()&fs.ModeSymlink == 0:
			return "", errors.New("not a regular file")
		}
		target, err := t.root.Readlink(at)
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(dir, target)
		}
		name = target
	}
	return "", errors.New("too many levels of links")
}

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"

	"github.com/firerunner/firerunner"
)

const (
	// fileSuffix makes the key that names the file of a secret.
	fileSuffix = "_file"
	// secretLimit is far beyond any token.
	secretLimit = 64 << 10
	othersRead  = fs.FileMode(0o004)
	// secretForbids is who may not touch a secret's file: others at all, and the group by writing. A group may
	// read, because that is how service managers hand secrets to a service.
	secretForbids = fs.FileMode(0o027)
)

// secretFiles reads the file of every secret that has one.
func (l *loader) secretFiles() {
	for _, s := range l.secrets() {
		key := s.key + fileSuffix
		switch {
		case s.file == "":
		case *s.value != "":
			l.add(l.config.at(key, "%s and %s are both given", s.key, key).withHint("remove one of them"))
		default:
			text, err := ReadSecret(s.file)
			if err != nil {
				l.add(l.config.at(key, "%v", err).withHint("%s", firerunner.HintOf(err)))
				continue
			}
			*s.value = text
		}
	}
}

// secret is one secret, wherever it stands, and the file that may hold it.
type secret struct {
	key   string
	value *firerunner.Secret
	file  string
}

// secrets returns all of them: those that have a key of their own, and those of the hosts.
func (l *loader) secrets() []secret {
	var all []secret
	for _, leaf := range leaves() {
		if leaf.kind == typeSecret {
			value, _ := reflect.ValueOf(&l.config).Elem().FieldByIndex(leaf.index).Addr().Interface().(*firerunner.Secret)
			all = append(all, secret{leaf.key, value, l.leaf(leaf.key + fileSuffix).String()})
		}
	}
	for i := range l.config.Hosts {
		h := &l.config.Hosts[i]
		all = append(all, secret{hostKey(i) + ".token", &h.Token, h.TokenFile})
	}
	return all
}

// inlineSecrets reports secrets that stand in a file which everybody can read.
func (l *loader) inlineSecrets(path string, mode fs.FileMode) {
	if o := l.config.origins["database"]; o.source == path && hidesPassword(l.config.Database) {
		l.add(l.config.at("database", "every user of the machine can read the password in it: the file's mode is %#o", mode.Perm()).
			withHint("chmod 600 %s, or use database_password_file", path))
	}
	for _, s := range l.secrets() {
		if o := l.config.origins[s.key]; o.source == path && o.line > 0 {
			l.add(l.config.at(s.key, "every user of the machine can read this secret: the file's mode is %#o", mode.Perm()).
				withHint("chmod 600 %s, or use %s%s", path, s.key, fileSuffix))
		}
	}
}

// ReadSecret reads a secret's file: a regular file that others cannot read, one line, the final newline is cut
// off. The error has a hint.
func ReadSecret(path string) (firerunner.Secret, error) {
	data, mode, err := readRegular(path, secretLimit)
	if err != nil {
		return "", firerunner.Errorf(firerunner.Invalid, "reading a secret from %s: %w", path, err)
	}
	if mode&secretForbids != 0 {
		return "", firerunner.Errorf(firerunner.Invalid, "reading a secret from %s: others may touch it: its mode is %#o", path, mode.Perm()).
			WithHint("chmod 600 %s", path)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", firerunner.Errorf(firerunner.Invalid, "reading a secret from %s: it is empty", path)
	}
	return firerunner.Secret(text), nil
}

// readRegular reads a regular file of at most limit bytes. It looks at the file that it opened, so nobody can
// exchange it in between, and it does not wait for a writer where the path is a named pipe.
func readRegular(path string, limit int64) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, cause(err)
	}
	if int64(len(data)) > limit {
		return nil, 0, fmt.Errorf("larger than %d KiB", limit>>10)
	}
	return data, info.Mode(), nil
}

// cause is the error without the system call's name and the path, which the callers say in their own way.
func cause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

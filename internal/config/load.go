package config

import (
	"reflect"
	"strings"
)

// Sources is where a configuration is read from. A later source overrides an earlier one: file, environment,
// flags.
type Sources struct {
	File    string   // path of the YAML file; empty: none
	Environ []string // in the form of os.Environ; FIRERUNNER_GITLAB_TOKEN is gitlab.token
	Flags   []string // key=value, such as log.level=debug
	Machine Machine  // see ThisMachine
	// WithoutGitLab leaves out of the problems what only a way to GitLab needs, for commands that do not ask it.
	WithoutGitLab bool
}

// Load reads the sources, fills in what is left to the machine, reads the secrets' files and checks it all. The
// error is firerunner.Invalid and holds every problem (errors.As to Problems); the Config is never nil, so that
// doctor can look at what is there.
func Load(s Sources) (*Config, error) {
	l := loader{config: Default()}
	l.config.origins = map[string]origin{}
	readable := s.File == "" || l.file(s.File)
	l.environ(s.Environ)
	l.flags(s.Flags)
	l.secretFiles()
	l.database()
	l.config.Complete(s.Machine)
	if readable { // else every key would be called missing
		l.check(!s.WithoutGitLab)
	}
	return &l.config, l.problems.err()
}

// Validate checks a Config that was put together without Load.
func (c *Config) Validate() error { return c.check(true).err() }

type loader struct {
	config   Config
	problems Problems
}

func (l *loader) add(p Problem) { l.problems = append(l.problems, p) }

// check adds the problems of the whole, except for keys that have one already.
func (l *loader) check(gitlab bool) {
	known := map[string]bool{}
	for _, p := range l.problems {
		known[p.Key] = true
	}
	for _, p := range l.config.check(gitlab) {
		if !known[p.Key] {
			l.add(p)
		}
	}
}

// given notes where a key's value came from. A secret and its file exclude each other: the one from the later
// source wins, and two from one source are a problem that secretFiles reports.
func (l *loader) given(key string, o origin) {
	l.config.origins[key] = o
	other, isFile := strings.CutSuffix(key, fileSuffix)
	if !isFile {
		other = key + fileSuffix
	}
	if before, ok := l.config.origins[other]; ok && before.source != o.source {
		if v := l.leaf(other); v.IsValid() {
			v.SetZero()
			delete(l.config.origins, other)
		}
	}
}

// leaf returns the value of a dotted key outside of profiles; not valid if there is none.
func (l *loader) leaf(key string) reflect.Value {
	for _, f := range leaves() {
		if f.key == key {
			return reflect.ValueOf(&l.config).Elem().FieldByIndex(f.index)
		}
	}
	return reflect.Value{}
}

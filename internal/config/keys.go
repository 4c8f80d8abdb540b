package config

import (
	"net/netip"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/firerunner/firerunner"
)

// field is one key of a mapping: a section, or a leaf with a value of its own.
type field struct {
	name  string // as in the file
	index int    // in the struct
	path  bool   // a file or folder: relative to the file that names it
	kind  reflect.Type
}

// fieldsOf returns the keys of a section in order.
func fieldsOf(section reflect.Type) []field {
	var fields []field
	for i := range section.NumField() {
		f := section.Field(i)
		if !f.IsExported() {
			continue
		}
		name := f.Tag.Get("yaml")
		if name == "" {
			name = snake(f.Name) // the root package's types carry no tags
		}
		fields = append(fields, field{name: name, index: i, path: f.Tag.Get("path") != "", kind: f.Type})
	}
	return fields
}

// leaf is a key with a value of its own, by its dotted name.
type leaf struct {
	key   string
	index []int
	path  bool
	kind  reflect.Type
}

// leaves returns every key that the environment and flags can set: all but those below profiles, whose names are
// the user's.
func leaves() []leaf { return leavesOf(reflect.TypeFor[Config](), "", nil) }

func leavesOf(section reflect.Type, prefix string, index []int) []leaf {
	var all []leaf
	for _, f := range fieldsOf(section) {
		at := append(append([]int(nil), index...), f.index)
		switch {
		case isLeaf(f.kind):
			all = append(all, leaf{key: prefix + f.name, index: at, path: f.path, kind: f.kind})
		case f.kind.Kind() == reflect.Struct:
			all = append(all, leavesOf(f.kind, prefix+f.name+".", at)...)
		}
	}
	return all
}

// Keys returns the dotted name of every key that --set and the environment can set, in the order of the file.
func Keys() []string {
	var keys []string
	for _, l := range leaves() {
		keys = append(keys, l.key)
	}
	return keys
}

// Variable returns the environment variable that sets a key: gitlab.token is FIRERUNNER_GITLAB_TOKEN.
func Variable(key string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

const prefix = "FIRERUNNER_"

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeSecret   = reflect.TypeFor[firerunner.Secret]()
	typePrefixes = reflect.TypeFor[[]netip.Prefix]()
	typeStrings  = reflect.TypeFor[[]string]()
	typeSwitch   = reflect.TypeFor[*bool]()
)

func isLeaf(t reflect.Type) bool {
	switch t {
	case typePrefixes, typeStrings, typeSwitch:
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Int, reflect.Int64, reflect.Float64, reflect.Bool:
		return true
	}
	return false
}

func isList(t reflect.Type) bool { return t == typePrefixes || t == typeStrings }

// snake makes job_timeout of JobTimeout.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

package config

import (
	"path/filepath"
	"reflect"
	"sort"
	"strings"
)

// environ reads the variables that have a key. An empty one counts as not set. Others with our prefix are left
// alone (an orchestrator makes some of its own) unless they look like a slip.
func (l *loader) environ(environ []string) {
	values := map[string]string{}
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); strings.HasPrefix(name, prefix) && value != "" {
			values[name] = value
		}
	}
	var names []string
	for _, leaf := range leaves() {
		name := Variable(leaf.key)
		names = append(names, name)
		if value, ok := values[name]; ok {
			delete(values, name)
			l.set(leaf, value, origin{source: sourceEnvironment, name: name})
		}
	}
	var unknown []string
	for name := range values {
		unknown = append(unknown, name)
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		for _, known := range names {
			if distance(name, known, 2) <= 2 {
				l.add(Problem{Source: sourceEnvironment, Key: short(name), Message: "unknown variable", Hint: meant(known)})
				break
			}
		}
	}
}

// flags reads key=value settings.
func (l *loader) flags(settings []string) {
	for _, setting := range settings {
		key, value, ok := strings.Cut(setting, "=")
		if !ok {
			l.add(Problem{Source: sourceFlags, Key: short(key), Message: "no value", Hint: "write --set key=value"})
			continue
		}
		found := false
		for _, leaf := range leaves() {
			if leaf.key == key {
				found = true
				if leaf.kind == typeSecret || key == "database" && hidesPassword(value) {
					l.add(Problem{
						Source: sourceFlags, Key: key, Message: "a secret on the command line can be read by every user of the machine",
						Hint: "use " + Variable(key) + " or " + key + fileSuffix,
					})
					break
				}
				l.set(leaf, value, origin{source: sourceFlags, name: key})
				break
			}
		}
		if !found {
			l.add(Problem{Source: sourceFlags, Key: short(key), Message: "unknown key", Hint: meant(nearest(key, Keys()))})
		}
	}
}

// set puts a text into a leaf; lists are separated by commas.
func (l *loader) set(leaf leaf, text string, o origin) {
	to := reflect.ValueOf(&l.config).Elem().FieldByIndex(leaf.index)
	var err error
	if isList(leaf.kind) {
		var items []string
		for _, item := range strings.Split(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		err = setList(to, items)
	} else {
		err = setText(to, text)
	}
	if err != nil {
		l.add(Problem{Source: o.source, Key: o.name, Message: err.Error()})
		return
	}
	if leaf.path && text != "" {
		if abs, err := filepath.Abs(text); err == nil {
			to.SetString(abs)
		}
	}
	l.given(leaf.key, o)
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// fileLimit is far beyond any real configuration.
const fileLimit = 1 << 20

// file reads the YAML file; false if it could not be read as YAML at all.
func (l *loader) file(path string) bool {
	l.config.origins[""] = origin{source: path}
	data, mode, err := readRegular(path, fileLimit)
	if err != nil {
		p := Problem{Source: path, Message: err.Error()}
		if errors.Is(err, os.ErrNotExist) {
			p.Hint = "copy config.example.yaml, or name another file with --config"
		}
		l.add(p)
		return false
	}
	if !l.document(path, data) {
		return false
	}
	if mode&othersRead != 0 {
		l.inlineSecrets(path, mode)
	}
	return true
}

// document reads the file's content.
func (l *loader) document(path string, data []byte) bool {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return true // empty
	} else if err != nil {
		l.add(syntaxProblem(path, err))
		return false
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		l.add(Problem{Source: path, Message: "more than one YAML document; only one is read"})
		return false
	}
	if len(root.Content) != 1 {
		return true
	}
	f := fileReader{loader: l, path: path, dir: filepath.Dir(path)}
	f.section(reflect.ValueOf(&l.config).Elem(), root.Content[0], "")
	return true
}

// yamlLine finds the line in what yaml.v3 says; it has no field for it.
var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

func syntaxProblem(path string, err error) Problem {
	p := Problem{Source: path, Message: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		p.Message = "not YAML: " + m[2]
	}
	return p
}

// fileReader walks the nodes of one file.
type fileReader struct {
	*loader
	path string
	dir  string // what relative paths in the file are relative to
}

// problem adds what is wrong with a node.
func (f *fileReader) problem(node *yaml.Node, key, hint, format string, args ...any) {
	f.add(Problem{Source: f.path, Line: node.Line, Key: key, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// section reads a mapping into a struct.
func (f *fileReader) section(to reflect.Value, node *yaml.Node, key string) {
	fields := fieldsOf(to.Type())
	f.pairs(node, key, func(name string, keyNode, value *yaml.Node) {
		full := dotted(key, name)
		for _, field := range fields {
			if field.name == name {
				f.value(to.Field(field.index), field, value, full)
				return
			}
		}
		var names []string
		for _, field := range fields {
			names = append(names, field.name)
		}
		f.problem(keyNode, short(full), meant(nearest(name, append(names, Keys()...))), "unknown key")
	})
}

// value reads one key's value: a section, a map of sections, or a leaf.
func (f *fileReader) value(to reflect.Value, field field, node *yaml.Node, key string) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null": // "key:" with nothing behind it: the default
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		f.problem(node, key, "write the value out", "anchors and aliases are not read")
	case isLeaf(field.kind):
		f.config.origins[key] = origin{source: f.path, line: node.Line, name: key} // also if it turns out to be wrong
		if err := f.scalarOrList(to, node); err != nil {
			f.problem(node, key, "", "%v", err)
			return
		}
		if field.path && to.String() != "" && !filepath.IsAbs(to.String()) {
			to.SetString(filepath.Join(f.dir, to.String()))
		}
		f.given(key, f.config.origins[key])
	case field.kind.Kind() == reflect.Map:
		f.profiles(to, node, key)
	case field.kind.Kind() == reflect.Slice:
		f.hosts(to, node, key)
	default:
		f.section(to, node, key)
	}
}

// scalarOrList reads a leaf.
func (f *fileReader) scalarOrList(to reflect.Value, node *yaml.Node) error {
	if !isList(to.Type()) {
		if node.Kind != yaml.ScalarNode {
			return fmt.Errorf("needs %s", wants(to.Type()))
		}
		return setText(to, node.Value)
	}
	if node.Kind != yaml.SequenceNode {
		return errors.New("needs a list: [a, b], or one item per line after a dash")
	}
	var items []string
	for _, item := range node.Content {
		if item.Kind != yaml.ScalarNode || item.Anchor != "" {
			return fmt.Errorf("line %d: each item must be a plain value", item.Line)
		}
		items = append(items, item.Value)
	}
	return setList(to, items)
}

// profiles reads the map whose keys are the user's own names.
func (f *fileReader) profiles(to reflect.Value, node *yaml.Node, key string) {
	all := map[string]Profile{}
	f.pairs(node, key, func(name string, keyNode, value *yaml.Node) {
		var p Profile
		full := dotted(key, name)
		f.config.origins[full] = origin{source: f.path, line: keyNode.Line, name: short(full)}
		if value.Kind != yaml.ScalarNode || value.Tag != "!!null" {
			f.section(reflect.ValueOf(&p).Elem(), value, full)
		}
		all[name] = p
	})
	to.Set(reflect.ValueOf(all))
}

// hosts reads the list of sections.
func (f *fileReader) hosts(to reflect.Value, node *yaml.Node, key string) {
	f.config.origins[key] = origin{source: f.path, line: node.Line, name: key}
	if node.Kind != yaml.SequenceNode {
		f.problem(node, key, "", "needs a list: each item with a dash, and keys below it")
		return
	}
	all := make([]Host, len(node.Content))
	for i, item := range node.Content {
		full := hostKey(i)
		f.config.origins[full] = origin{source: f.path, line: item.Line, name: full}
		f.section(reflect.ValueOf(&all[i]).Elem(), item, full)
	}
	to.Set(reflect.ValueOf(all))
}

// pairs calls do for each key of a mapping once.
func (f *fileReader) pairs(node *yaml.Node, key string, do func(name string, keyNode, value *yaml.Node)) {
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		f.problem(node, key, "write the value out", "anchors and aliases are not read")
		return
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	if node.Kind != yaml.MappingNode {
		f.problem(node, key, "", "needs keys below it, each with a colon")
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		if name.Kind != yaml.ScalarNode || name.Anchor != "" {
			f.problem(name, key, "", "a key must be a plain word")
			continue
		}
		if line, twice := first[name.Value]; twice {
			f.problem(name, short(dotted(key, name.Value)), "", "given twice; the first is in line %d", line)
			continue
		}
		first[name.Value] = name.Line
		do(name.Value, name, node.Content[i+1])
	}
}

func dotted(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func meant(name string) string {
	if name == "" {
		return ""
	}
	return "did you mean " + name + "?"
}

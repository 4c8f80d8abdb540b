package gitlabtest

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const maxCINodes = 200_000

// resolve follows an alias, within the budget that keeps a small file from growing into a large one.
func (p *ciParser) resolve(n *yaml.Node) *yaml.Node {
	p.visited++
	for depth := 0; n != nil && n.Kind == yaml.AliasNode && depth < 10; depth++ {
		n = n.Alias
	}
	return n
}

type ciField struct {
	key   string
	line  int
	value *yaml.Node
}

// fields are a mapping's keys and values in order; << merges come last and never replace.
func (p *ciParser) fields(n *yaml.Node, what string) []ciField {
	return p.fieldsAt(n, what, 0)
}

func (p *ciParser) fieldsAt(n *yaml.Node, what string, depth int) []ciField {
	n = p.resolve(n)
	if p.visited > maxCINodes || depth > 10 {
		if len(p.problems) == 0 {
			p.fail(lineOf(n), "%s: aliases make the file too large", what)
		}
		return nil
	}
	if n == nil || n.Kind != yaml.MappingNode {
		p.fail(lineOf(n), "%s must be a mapping", what)
		return nil
	}
	var out, merged []ciField
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], p.resolve(n.Content[i+1])
		if k.Kind != yaml.ScalarNode {
			p.fail(k.Line, "%s: a key must be a plain word", what)
			continue
		}
		if k.Tag == "!!merge" {
			if v.Kind == yaml.SequenceNode {
				for _, item := range v.Content {
					merged = append(merged, p.fieldsAt(item, what, depth+1)...)
				}
			} else {
				merged = append(merged, p.fieldsAt(v, what, depth+1)...)
			}
			continue
		}
		if seen[k.Value] {
			p.fail(k.Line, "%s: key %q is there twice", what, k.Value)
			continue
		}
		seen[k.Value] = true
		out = append(out, ciField{key: k.Value, line: k.Line, value: v})
	}
	for _, f := range merged {
		if !seen[f.key] {
			seen[f.key] = true
			out = append(out, f)
		}
	}
	return out
}

func lineOf(n *yaml.Node) int {
	if n == nil {
		return 1
	}
	return n.Line
}

// text reads a scalar; a number or boolean is taken as it is written.
func (p *ciParser) text(n *yaml.Node, what string) string {
	n = p.resolve(n)
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.fail(lineOf(n), "%s must be a string", what)
		return ""
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		p.fail(n.Line, "%s: the tag %s is not supported", what, n.Tag)
		return ""
	}
	return n.Value
}

func (p *ciParser) flag(n *yaml.Node, what string) bool {
	v, err := strconv.ParseBool(p.text(n, what))
	if err != nil {
		p.fail(lineOf(n), "%s must be true or false", what)
	}
	return v
}

func (p *ciParser) number(n *yaml.Node, what string, least, most int) int {
	v, err := strconv.Atoi(p.text(n, what))
	if err != nil || v < least || v > most {
		p.fail(lineOf(n), "%s must be a number from %d to %d", what, least, most)
		return least
	}
	return v
}

func (p *ciParser) choice(n *yaml.Node, what string, among ...string) string {
	v := p.text(n, what)
	for _, a := range among {
		if v == a {
			return v
		}
	}
	p.fail(lineOf(n), "%s must be one of %s", what, strings.Join(among, ", "))
	return among[0]
}

// texts reads a string or a list of strings, nested ones included, as script keywords take them.
func (p *ciParser) texts(n *yaml.Node, what string) []string {
	return p.textsAt(n, what, 0)
}

func (p *ciParser) textsAt(n *yaml.Node, what string, depth int) []string {
	n = p.resolve(n)
	if p.visited > maxCINodes || depth > 10 {
		if len(p.problems) == 0 {
			p.fail(lineOf(n), "%s is nested too deeply or too large", what)
		}
		return nil
	}
	if n == nil || n.Kind != yaml.SequenceNode {
		return []string{p.text(n, what)}
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		p.fail(n.Line, "%s: the tag %s is not supported", what, n.Tag)
		return nil
	}
	out := []string{}
	for _, item := range n.Content {
		out = append(out, p.textsAt(item, what, depth+1)...)
	}
	return out
}

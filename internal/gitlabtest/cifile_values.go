package gitlabtest

import (
	"math"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

func (p *ciParser) images(n *yaml.Node, what string) []*Image {
	n = p.resolve(n)
	if n == nil || n.Kind != yaml.SequenceNode {
		p.fail(lineOf(n), "%s must be a list", what)
		return nil
	}
	out := []*Image{}
	for _, item := range n.Content {
		out = append(out, p.image(item, what))
	}
	return out
}

func (p *ciParser) image(n *yaml.Node, what string) *Image {
	n = p.resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return &Image{Name: p.text(n, what)}
	}
	image := &Image{}
	for _, field := range p.fields(n, what) {
		name := what + ": " + field.key
		switch field.key {
		case "name":
			image.Name = p.text(field.value, name)
		case "alias":
			image.Alias = p.text(field.value, name)
		case "entrypoint":
			image.Entrypoint = p.texts(field.value, name)
		case "command":
			image.Command = p.texts(field.value, name)
		case "pull_policy":
			image.PullPolicy = p.texts(field.value, name)
		default:
			p.fail(field.line, "%s: key %q is not supported", what, field.key)
		}
	}
	if image.Name == "" {
		p.fail(n.Line, "%s: name is missing", what)
	}
	return image
}

func (p *ciParser) artifacts(n *yaml.Node, what string) *ArtifactSpec {
	a := &ArtifactSpec{When: "on_success"}
	for _, field := range p.fields(n, what) {
		name := what + ": " + field.key
		switch field.key {
		case "name":
			a.Name = p.text(field.value, name)
		case "paths":
			a.Paths = p.texts(field.value, name)
		case "exclude":
			a.Exclude = p.texts(field.value, name)
		case "untracked":
			a.Untracked = p.flag(field.value, name)
		case "when":
			a.When = p.choice(field.value, name, "on_success", "on_failure", "always")
		case "expire_in":
			a.ExpireIn = p.text(field.value, name)
			if _, ok := parseSpan(a.ExpireIn); !ok && a.ExpireIn != "never" {
				p.fail(field.line, "%s: %q is not a span of time", name, a.ExpireIn)
			}
		default:
			p.fail(field.line, "%s: key %q is not supported", what, field.key)
		}
	}
	return a
}

func (p *ciParser) timeout(n *yaml.Node, what string) time.Duration {
	text := p.text(n, what)
	d, ok := parseSpan(text)
	if !ok || d < time.Second || d > 30*24*time.Hour {
		p.fail(lineOf(n), "%s: %q is not a span of time of at most a month", what, text)
	}
	return d
}

// parseSpan reads GitLab's human spans: "3600", "1h 30m", "2 hours 10 minutes", "1 week and 2 days".
func parseSpan(text string) (time.Duration, bool) {
	text = strings.ToLower(strings.TrimSpace(text))
	var total float64
	found := false
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "and "); ok {
			text = strings.TrimSpace(rest)
			continue
		}
		digits := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if digits < 0 {
			digits = len(text)
		}
		n, err := strconv.ParseFloat(text[:digits], 64)
		if err != nil {
			return 0, false
		}
		text = strings.TrimSpace(text[digits:])
		letters := strings.IndexFunc(text, func(r rune) bool { return r < 'a' || r > 'z' })
		if letters < 0 {
			letters = len(text)
		}
		unit, ok := spanUnit(text[:letters])
		if !ok {
			return 0, false
		}
		text = strings.TrimLeft(text[letters:], " ,")
		total += n * float64(unit)
		found = true
	}
	if !found || total > math.MaxInt64/2 {
		return 0, false
	}
	return time.Duration(total), true
}

func spanUnit(word string) (time.Duration, bool) {
	switch word {
	case "", "s", "sec", "secs", "second", "seconds":
		return time.Second, true
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute, true
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour, true
	case "d", "day", "days":
		return 24 * time.Hour, true
	case "w", "wk", "wks", "week", "weeks":
		return 7 * 24 * time.Hour, true
	case "mo", "mos", "month", "months":
		return 30 * 24 * time.Hour, true
	case "y", "yr", "yrs", "year", "years":
		return 365 * 24 * time.Hour, true
	}
	return 0, false
}

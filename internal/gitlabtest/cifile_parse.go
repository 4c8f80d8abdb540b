package gitlabtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// ciDefaults are the job settings that default: may hold.
type ciDefaults struct {
	before, after []string
	tags          []string
	image         *Image
	services      []*Image
	artifacts     *ArtifactSpec
	timeout       time.Duration
	retry         retrySpec
}

func (p *ciParser) file(data []byte) *CIFile {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		p.fail(1, "%v", err)
		return nil
	}
	if len(root.Content) == 0 {
		p.fail(1, "the file is empty")
		return nil
	}
	f := &CIFile{Stages: []string{".pre", "build", "test", "deploy", ".post"}}
	var d ciDefaults
	var jobs []ciField
	for _, field := range p.fields(root.Content[0], "the file") {
		switch field.key {
		case "stages":
			f.Stages = append([]string{".pre"}, slices.DeleteFunc(p.texts(field.value, "stages"), func(s string) bool {
				return s == ".pre" || s == ".post"
			})...)
			f.Stages = append(f.Stages, ".post")
		case "variables":
			f.Variables = p.variables(field.value, "variables")
		case "default":
			for _, inner := range p.fields(field.value, "default") {
				p.defaultKey(&d, inner, "default")
			}
		case "image", "services", "before_script", "after_script": // the old spelling of default:
			p.defaultKey(&d, field, "the file")
		case "include", "workflow", "spec", "pages", "cache":
			p.fail(field.line, "key %q is not supported", field.key)
		default:
			if !strings.HasPrefix(field.key, ".") { // a hidden job is only there to be aliased
				jobs = append(jobs, field)
			}
		}
	}
	for _, field := range jobs {
		p.job(f, field, d)
		if len(f.Jobs) > maxCIJobs {
			p.fail(field.line, "more than %d jobs", maxCIJobs)
			return f
		}
	}
	p.check(f)
	return f
}

func (p *ciParser) defaultKey(d *ciDefaults, field ciField, what string) {
	name := what + ": " + field.key
	switch field.key {
	case "before_script":
		d.before = p.texts(field.value, name)
	case "after_script":
		d.after = p.texts(field.value, name)
	case "tags":
		d.tags = p.texts(field.value, name)
	case "image":
		d.image = p.image(field.value, name)
	case "services":
		d.services = p.images(field.value, name)
	case "artifacts":
		d.artifacts = p.artifacts(field.value, name)
	case "timeout":
		d.timeout = p.timeout(field.value, name)
	case "retry":
		d.retry = p.retry(field.value, name)
	default:
		p.fail(field.line, "%s: key %q is not supported", what, field.key)
	}
}

func (p *ciParser) job(f *CIFile, field ciField, d ciDefaults) {
	j := &JobSpec{
		Name: field.key, Line: field.line, Stage: "test", When: "on_success", BeforeScript: d.before, AfterScript: d.after,
		Tags: d.tags, Image: d.image, Services: d.services, Artifacts: d.artifacts, Timeout: d.timeout, Retry: d.retry,
	}
	what := fmt.Sprintf("job %q", j.Name)
	if n := p.resolve(field.value); n == nil || n.Kind != yaml.MappingNode {
		p.fail(field.line, "unknown key %q, and as a job it must be a mapping", field.key)
		return
	}
	if len(j.Name) > 255 || j.Name == "" {
		p.fail(field.line, "a job's name has 1 to 255 characters")
	}
	copies, allowGiven := 0, false
	for _, inner := range p.fields(field.value, what) {
		name := what + ": " + inner.key
		switch inner.key {
		case "stage":
			j.Stage = p.text(inner.value, name)
		case "script":
			j.Script = p.texts(inner.value, name)
		case "before_script":
			j.BeforeScript = p.texts(inner.value, name)
		case "after_script":
			j.AfterScript = p.texts(inner.value, name)
		case "variables":
			j.Variables = p.variables(inner.value, name)
		case "tags":
			j.Tags = p.texts(inner.value, name)
		case "image":
			j.Image = p.image(inner.value, name)
		case "services":
			j.Services = p.images(inner.value, name)
		case "artifacts":
			j.Artifacts = p.artifacts(inner.value, name)
		case "when":
			j.When = p.choice(inner.value, name, "on_success", "on_failure", "always", "manual")
		case "allow_failure":
			allowGiven = true
			p.allowFailure(j, inner.value, name)
		case "timeout":
			j.Timeout = p.timeout(inner.value, name)
		case "retry":
			j.Retry = p.retry(inner.value, name)
		case "needs":
			j.HasNeeds, j.Needs = true, p.needs(inner.value, name)
		case "dependencies":
			j.HasDeps, j.Dependencies = true, p.texts(inner.value, name)
		case "parallel":
			copies = p.number(inner.value, name, 1, 200)
		default:
			p.fail(inner.line, "%s: key %q is not supported", what, inner.key)
		}
	}
	if len(j.Script) == 0 {
		p.fail(field.line, "%s: script is missing", what)
	}
	// A manual job does not hold the pipeline up unless it says so.
	if j.When == "manual" && !allowGiven {
		j.AllowFailure = true
	}
	if copies == 0 {
		f.Jobs = append(f.Jobs, j)
		return
	}
	for node := 1; node <= copies; node++ {
		c := *j
		c.Name, c.Node, c.NodeTotal, c.base = parallelName(j.Name, node, copies), node, copies, j.Name
		f.Jobs = append(f.Jobs, &c)
	}
}

func (p *ciParser) variables(n *yaml.Node, what string) []Variable {
	var out []Variable
	for _, field := range p.fields(n, what) {
		v := Variable{Key: field.key}
		name := what + ": " + field.key
		if field.value.Kind == yaml.MappingNode {
			for _, inner := range p.fields(field.value, name) {
				switch inner.key {
				case "value":
					v.Value = p.text(inner.value, name)
				case "expand":
					v.Raw = !p.flag(inner.value, name+": expand")
				case "description", "options":
				default:
					p.fail(inner.line, "%s: key %q is not supported", name, inner.key)
				}
			}
		} else {
			v.Value = p.text(field.value, name)
		}
		out = append(out, v)
	}
	return out
}

func (p *ciParser) allowFailure(j *JobSpec, n *yaml.Node, what string) {
	if n.Kind != yaml.MappingNode {
		j.AllowFailure = p.flag(n, what)
		return
	}
	for _, field := range p.fields(n, what) {
		if field.key != "exit_codes" {
			p.fail(field.line, "%s: key %q is not supported", what, field.key)
			continue
		}
		for _, text := range p.texts(field.value, what) {
			code, err := strconv.Atoi(text)
			if err != nil {
				p.fail(field.line, "%s: exit code %q is not a number", what, text)
			}
			j.AllowCodes = append(j.AllowCodes, code)
		}
	}
}

func (p *ciParser) needs(n *yaml.Node, what string) []Need {
	n = p.resolve(n)
	if n == nil || n.Kind != yaml.SequenceNode {
		p.fail(lineOf(n), "%s must be a list", what)
		return nil
	}
	out := []Need{}
	for _, item := range n.Content {
		item = p.resolve(item)
		need := Need{Artifacts: true}
		if item.Kind == yaml.MappingNode {
			for _, field := range p.fields(item, what) {
				switch field.key {
				case "job":
					need.Job = p.text(field.value, what+": job")
				case "artifacts":
					need.Artifacts = p.flag(field.value, what+": artifacts")
				case "optional":
					need.Optional = p.flag(field.value, what+": optional")
				default:
					p.fail(field.line, "%s: key %q is not supported", what, field.key)
				}
			}
		} else {
			need.Job = p.text(item, what)
		}
		out = append(out, need)
	}
	if len(out) > 50 {
		p.fail(n.Line, "%s: more than 50 entries", what)
	}
	return out
}

package image

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// source is one entry of apt's sources in the deb822 style: sources.list(5).
type source struct {
	uris, suites, components []string
	signedBy                 string // path of a keyring, or the key itself; empty = apt's trusted ones
	trusted                  bool
}

// aptSources is what of apt's sources below etc (/etc/apt) serves a Debian suite: entries for the suite itself,
// its updates and its security updates. It returns them in the deb822 style. The machine's own sources are
// used because they are what works here: a mirror, a proxy, a company's copy.
func aptSources(etc, suite string) (string, error) {
	var all []source
	paths, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	for _, path := range append([]string{filepath.Join(etc, "sources.list")}, paths...) {
		var parse func(string) []source
		switch filepath.Ext(path) {
		case ".list":
			parse = parseOneLine
		case ".sources":
			parse = parseDeb822
		default:
			continue
		}
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return "", firerunner.Errorf(firerunner.Invalid, "read apt's sources: %w", err)
		}
		all = append(all, parse(string(text))...)
	}
	out, err := selectSources(all, suite)
	if err == nil && out == "" { // another release of the same distribution is on the same mirrors
		out, err = selectSources(renamed(all, suite), suite)
	}
	if err != nil {
		return "", err
	}
	if out == "" {
		d := distributionOf(suite)
		return "", firerunner.Errorf(firerunner.Unavailable, "find a source of %s %s: none of apt's sources in %s serves it", d.name, suite, etc).
			WithHint("name mirrors: --mirror URL (or image.mirrors in the configuration), or a whole line: deb URL %s %s", suite, d.components)
	}
	return out, nil
}

// givenSources are the recipe's own, in the one-line style; a URL alone is a mirror of the suite. keyring is for
// those that name none; empty: apt knows their keys.
func givenSources(lines []string, suite, keyring string) (string, error) {
	var text strings.Builder
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) == 1 && strings.Contains(line, "://") {
			line = "deb " + fields[0] + " " + suite + " " + distributionOf(suite).components
		}
		text.WriteString(line + "\n")
	}
	all := parseOneLine(text.String())
	for i := range all {
		if keyring != "" && all[i].signedBy == "" && !all[i].trusted {
			all[i].signedBy = " " + keyring
		}
	}
	out, err := selectSources(all, suite)
	if err == nil && out == "" {
		err = firerunner.Errorf(firerunner.Invalid, "find a source of %s %s: none of the recipe's mirrors serves it", distributionOf(suite).name, suite).
			WithHint("a mirror is a URL, or an apt source line, such as: deb MIRROR-URL %s main", suite)
	}
	return out, err
}

func selectSources(all []source, suite string) (string, error) {
	wanted := []string{suite, suite + "-updates", suite + "-security"}
	var chosen []source
	main := false
	for _, s := range all {
		s.suites = slices.DeleteFunc(slices.Clone(s.suites), func(name string) bool { return !slices.Contains(wanted, name) })
		if len(s.suites) == 0 || !slices.Contains(s.components, "main") {
			continue
		}
		main = main || slices.Contains(s.suites, suite)
		chosen = append(chosen, s)
	}
	out, err := renderSources(chosen)
	if err != nil || !main {
		return "", err
	}
	return out, nil
}

// renderSources writes sources in the deb822 style.
func renderSources(all []source) (string, error) {
	var b strings.Builder
	for _, s := range all {
		for _, uri := range s.uris {
			if at, err := url.Parse(uri); err == nil && at.User != nil {
				return "", firerunner.Errorf(firerunner.Invalid, "use the apt source for %s: its URL holds a password, which every job could read", s.suites[0]).
					WithHint("put the password into /etc/apt/auth.conf.d, or name other mirrors in the image's recipe")
			}
		}
		b.WriteString("Types: deb\nURIs: " + strings.Join(s.uris, " ") + "\nSuites: " + strings.Join(s.suites, " ") +
			"\nComponents: " + strings.Join(s.components, " ") + "\n")
		if s.signedBy != "" {
			b.WriteString("Signed-By:" + s.signedBy + "\n")
		}
		if s.trusted {
			b.WriteString("Trusted: yes\n")
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

// parseOneLine reads the style of sources.list: deb [option=value ...] URI SUITE COMPONENT...
func parseOneLine(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "deb" {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if options, after, found := strings.Cut(strings.TrimPrefix(rest, "["), "]"); found && strings.HasPrefix(rest, "[") {
			for _, option := range strings.Fields(options) {
				switch key, value, _ := strings.Cut(option, "="); key {
				case "signed-by":
					s.signedBy = " " + value
				case "trusted":
					s.trusted = value == "yes"
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 3 {
			continue
		}
		s.uris, s.suites, s.components = fields[:1], fields[1:2], fields[2:]
		all = append(all, s)
	}
	return all
}

// parseDeb822 reads the style of *.sources: paragraphs of fields, which may go on in lines that begin with a space.
func parseDeb822(text string) []source {
	var all []source
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		fields, last := map[string]string{}, ""
		for line := range strings.Lines(paragraph) {
			switch line = strings.TrimRight(line, "\r\n"); {
			case strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
				if last != "" {
					fields[last] += "\n" + line
				}
			default:
				key, value, found := strings.Cut(line, ":")
				if last = ""; found {
					last = strings.ToLower(strings.TrimSpace(key))
					fields[last] = value
				}
			}
		}
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || strings.TrimSpace(fields["enabled"]) == "no" {
			continue
		}
		all = append(all, source{
			uris: strings.Fields(fields["uris"]), suites: strings.Fields(fields["suites"]),
			components: strings.Fields(fields["components"]), signedBy: fields["signed-by"],
			trusted: strings.TrimSpace(fields["trusted"]) == "yes",
		})
	}
	return all
}

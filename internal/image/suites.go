package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// distribution is what images have to know of one.
type distribution struct {
	name, id     string // as people and as os-release(5) say it
	suites       []string
	components   string // of a mirror of which nothing but the URL is given
	kernel       string // the package that depends on the kernel for virtual machines
	modulesApart bool   // the kernel's modules are in a package of their own
	keyring      string // file name in the keyring directory
	keyringPkg   string
}

// distributions that are known. A suite of none of them is taken for one of Debian's.
func distributions() []distribution {
	return []distribution{
		{
			name: "Debian", id: "debian", components: "main", kernel: "linux-image-cloud-amd64",
			suites:  []string{"buster", "bullseye", "bookworm", "trixie", "forky", "sid"},
			keyring: "debian-archive-keyring.gpg", keyringPkg: "debian-archive-keyring",
		},
		{
			name: "Ubuntu", id: "ubuntu", components: "main universe", kernel: "linux-image-virtual", modulesApart: true,
			suites:  []string{"focal", "jammy", "noble", "plucky", "questing", "resolute"},
			keyring: "ubuntu-archive-keyring.gpg", keyringPkg: "ubuntu-keyring",
		},
	}
}

func distributionOf(suite string) distribution {
	all := distributions()
	for _, d := range all {
		if slices.Contains(d.suites, suite) {
			return d
		}
	}
	return all[0]
}

// sources returns where the base's packages come from, in the deb822 style.
func (r *run) sources() (string, error) {
	for _, path := range r.recipe.Keyrings {
		if _, err := os.Stat(path); err != nil {
			return "", firerunner.Errorf(firerunner.Invalid, "read the keyring: %w", err)
		}
	}
	if len(r.recipe.Mirrors) == 0 {
		return aptSources(r.Apt, r.recipe.Suite)
	}
	keyring, err := r.keyring()
	if err != nil {
		return "", err
	}
	return givenSources(r.recipe.Mirrors, r.recipe.Suite, keyring)
}

// keyring is what checks the packages of mirrors that name none: nothing where this machine's apt has the keys, because
// it is of the same distribution, or where the recipe names keyrings.
func (r *run) keyring() (string, error) {
	d, here := distributionOf(r.recipe.Suite), osID(filepath.Join(filepath.Dir(r.Apt), "os-release"))
	if len(r.recipe.Keyrings) > 0 || here == "" || here == d.id {
		return "", nil
	}
	path := filepath.Join(r.Keyrings, d.keyring)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	for _, line := range r.recipe.Mirrors {
		if !strings.Contains(line, "signed-by=") && !strings.Contains(line, "trusted=yes") {
			return "", firerunner.Errorf(firerunner.Unavailable, "check the packages of %s %s: this machine has no keyring of %s", d.name, r.recipe.Suite, d.name).
				WithHint("apt-get install %s, or --keyring PATH", d.keyringPkg)
		}
	}
	return "", nil
}

// osID is this machine's distribution: os-release(5). Empty: it does not say.
func osID(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "ID="); found {
			return strings.Trim(id, `"'`)
		}
	}
	return ""
}

// renamed is what apt's sources for other releases of a suite's distribution are for this one.
func renamed(all []source, suite string) []source {
	d := distributionOf(suite)
	if !slices.Contains(d.suites, suite) {
		return nil
	}
	var out []source
	for _, other := range d.suites {
		for _, s := range all {
			var suites []string
			for _, name := range s.suites {
				if pocket, found := strings.CutPrefix(name, other); found && (pocket == "" || pocket[0] == '-') {
					suites = append(suites, suite+pocket)
				}
			}
			if s.suites = suites; len(suites) > 0 {
				out = append(out, s)
			}
		}
		if len(out) > 0 {
			return out // of one release: others would say the same again
		}
	}
	return nil
}

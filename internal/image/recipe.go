package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/firerunner/firerunner"
)

// Recipe says what an image is made of. The zero value of a field means its default.
type Recipe struct {
	Name     string   `json:"name"`     // what the image is called: "default"
	Suite    string   `json:"suite"`    // the release of Debian or Ubuntu: "bookworm"
	Packages []string `json:"packages"` // Debian packages besides the ones that every image has
	// Mirrors are apt source lines (deb ...), or URLs of mirrors of the suite, to use in place of the machine's own.
	Mirrors []string `json:"mirrors,omitempty"`
	// Keyrings are files with the keys that sign the mirrors' packages, besides those that apt trusts.
	Keyrings []string `json:"keyrings,omitempty"`
	// From is a container image to take the system from in place of Debian's; Suite then is where the kernel comes from.
	// Packages are installed in it by its own apt, from FromMirrors (lines like Mirrors) if there are any.
	From        string   `json:"from,omitempty"`
	FromMirrors []string `json:"from_mirrors,omitempty"`
	// Scripts run in the root file system, in this order, when everything else but the agent and gitlab-runner is in it.
	// They have this machine's network only with Network.
	Scripts []Script `json:"run,omitempty"`
	Network bool     `json:"run_network,omitempty"`
	Kernel  string   `json:"kernel"` // the package that depends on the kernel: Debian's "linux-image-cloud-amd64", Ubuntu's "linux-image-virtual"
	// DiskMiB is the free space in the root file system itself: 256. A microVM whose driver gives it a larger disk
	// has more: the guest agent grows the file system to its disk when it boots.
	DiskMiB int  `json:"disk_mib"`
	Sudo    bool `json:"sudo"` // jobs may become root inside their microVM
	// SSHD is openssh-server and the system's own init, for profiles that install the runner over SSH. NoAgent leaves
	// out the agent, gitlab-runner and the job's user: then the system's own init starts.
	SSHD    bool `json:"sshd,omitempty"`
	NoAgent bool `json:"no_agent,omitempty"`

	RunnerPath   string `json:"-"`                       // a gitlab-runner binary on this machine, or
	RunnerURL    string `json:"runner_url,omitempty"`    // where to download it, and
	RunnerSHA256 string `json:"runner_sha256,omitempty"` // what it must be: 64 hexadecimal digits
	AgentPath    string `json:"-"`                       // the fireguest binary

	Refresh bool `json:"-"` // make the base anew, for newer packages, although nothing in the recipe has changed
}

// needed is what gitlab-runner's shell executor and the jobs cannot do without.
// https://docs.gitlab.com/runner/executors/shell/
var needed = []string{"bash", "ca-certificates", "curl", "git"}

// The limits of Recipe.DiskMiB.
const (
	leastDiskMiB = 64
	mostDiskMiB  = 512 << 10
)

// baseVersion is raised when the base is made in another way from the same recipe.
const baseVersion = 1

var (
	names    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	packages = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{0,127}$`) // Debian policy, 5.6.1
	hexSHA   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// complete fills in the defaults and checks the rest.
func (r Recipe) complete() (Recipe, error) {
	invalid := func(format string, args ...any) (Recipe, error) {
		return r, firerunner.Errorf(firerunner.Invalid, "image recipe: "+format, args...)
	}
	if r.Name == "" {
		r.Name = "default"
	}
	if r.Suite == "" {
		r.Suite = "bookworm"
	}
	if r.Kernel == "" {
		r.Kernel = distributionOf(r.Suite).kernel
	}
	if r.DiskMiB == 0 {
		r.DiskMiB = 256
	}
	if !names.MatchString(r.Name) {
		return invalid("the name %q is not of lower-case letters, digits, and . _ -", r.Name)
	}
	if !names.MatchString(r.Suite) {
		return invalid("the suite %q is not the name of a release", r.Suite)
	}
	if r.DiskMiB < leastDiskMiB || r.DiskMiB > mostDiskMiB {
		return invalid("disk of %d MiB: it must be between 64 MiB and 512 GiB", r.DiskMiB)
	}
	if len(r.Scripts) > maxScripts {
		return invalid("%d scripts; at most %d are run", len(r.Scripts), maxScripts)
	}
	if _, err := foreignSources(r.FromMirrors); err != nil {
		return r, err
	}
	all := slices.Clone(r.Packages)
	if r.From == "" { // what a foreign system lacks is found out when it is there
		all = append(r.kernelPackages(), r.Packages...)
		if r.Sudo {
			all = append(all, "sudo")
		}
		if r.SSHD {
			all = append(all, "openssh-server")
		}
	}
	for _, p := range append(all, r.Kernel) {
		if !packages.MatchString(p) {
			return invalid("%q is not the name of a Debian package", p)
		}
	}
	slices.Sort(all)
	r.Packages = slices.Compact(all)
	if r.NoAgent {
		if r.RunnerPath != "" || r.RunnerURL != "" {
			return invalid("an image without agent has no gitlab-runner either")
		}
		return r, nil
	}
	if r.AgentPath == "" {
		return invalid("no guest agent")
	}
	if r.RunnerPath == "" && r.RunnerURL == "" {
		return invalid("no gitlab-runner")
	}
	if r.RunnerPath == "" && !hexSHA.MatchString(r.RunnerSHA256) {
		return invalid("gitlab-runner from a URL needs its SHA-256")
	}
	return r, nil
}

// kernelPackages is what is in every base, so all of one that only its kernel is wanted of.
func (r Recipe) kernelPackages() []string {
	all := slices.Clone(needed)
	if r.ownInit() {
		all = append(all, ownPackages...)
	}
	slices.Sort(all)
	return all
}

// basePackages is what mmdebstrap installs.
func (r Recipe) basePackages() []string {
	if r.From != "" {
		return r.kernelPackages()
	}
	return r.Packages
}

// baseKey names the base that this recipe and these apt sources make.
func (r Recipe) baseKey(sources string) string {
	parts := []any{baseVersion, r.Suite, r.Kernel, r.basePackages(), sources, guestModules}
	if r.ownInit() {
		parts = append(parts, fetchOwn)
	}
	return keyOf(parts...)
}

// keyOf is a digest over values, each apart from the next.
func keyOf(values ...any) string {
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // only texts, numbers and lists of them are given
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

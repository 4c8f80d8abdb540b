package image

import (
	"os"
	"strings"
)

// mmdebstrapEnv puts mmdebstrap's own directory below ours, so that it goes with it. An unprivileged mmdebstrap
// works as other users, who may not be able to go through our parents.
func (r *run) mmdebstrapEnv() []string {
	if os.Geteuid() != 0 {
		return nil
	}
	return []string{"TMPDIR=" + r.dir}
}

// mmdebstrap is its command line: mmdebstrap(1). No recommended packages and no documentation but the licences.
// Hooks see the new system as $1.
func (r *run) mmdebstrap(list, kernelDir, target string) []string {
	mode := "root"
	if os.Geteuid() != 0 {
		mode = "unshare"
	}
	const inside = "/tmp/firerunner-kernel"
	fetch := `set -e; mkdir "$1` + inside + `"; cd "$1` + inside + `"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
p=$(apt-cache depends ` + quote(r.recipe.Kernel) + ` | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n1)
apt-get -q download "${p:-` + r.recipe.Kernel + `}"`
	if distributionOf(r.recipe.Suite).modulesApart {
		fetch += "\n" + `case $p in linux-image-*) apt-get -q download "linux-modules-${p#linux-image-}" ;; esac`
	}
	if r.recipe.ownInit() {
		fetch += fetchOwn
	}
	args := []string{
		"mmdebstrap", "--mode=" + mode, "--variant=minbase", "--format=tar",
		"--include=" + strings.Join(r.recipe.basePackages(), ","),
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
	}
	for _, path := range r.recipe.Keyrings {
		args = append(args, "--keyring="+path)
	}
	for _, dir := range []string{"man", "doc", "info", "locale", "lintian"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	return append(args,
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook="+fetch,
		"--customize-hook=sync-out "+inside+" "+quote(kernelDir),
		// bash clears the console in it when it leaves, which fails where there is none; gitlab-runner's shell is
		// a login shell: https://docs.gitlab.com/runner/shells/#shell-profile-loading
		`--customize-hook=rm -r "$1`+inside+`"; rm -f "$1/etc/skel/.bash_logout" "$1/root/.bash_logout"`,
		r.recipe.Suite, target, list)
}

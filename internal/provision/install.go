package provision

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// Where things are in the guest. What is below /run is gone after a boot.
const (
	jobUser      = "ci"
	program      = "/usr/local/bin/gitlab-runner"
	runDir       = "/run/firerunner"
	privateDir   = runDir + "/private" // the job user's: the configuration with the token, while it is needed
	settingsFile = privateDir + "/config.toml"
	caFile       = runDir + "/ca.pem"
	logFile      = runDir + "/log" // gitlab-runner's
	pidFile      = runDir + "/pid"
	exitFile     = runDir + "/exit"
	scriptFile   = runDir + "/start"  // what keeps gitlab-runner
	keeperFile   = runDir + "/keeper" // the pid of the shell that waits for gitlab-runner
)

// The metadata service of Firecracker and of cloud-init's NoCloud, and the address of the interface that Flintlock puts in
// front of all others for it (https://github.com/liquidmetal-dev/flintlock).
const (
	metadataAddress = "169.254.169.254"
	metadataMAC     = "aa:ff:00:00:00:01"
)

var sums = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses what cannot work before anything is dialled.
func (g *guest) check() error {
	for name, missing := range map[string]bool{
		"Dial": g.Dial == nil, "Key": g.Key == nil, "HostKeys": len(g.HostKeys) == 0, "Settings": g.Settings == nil,
		"Arguments": g.Arguments == nil, "Parse": g.Parse == nil, "Report": g.Config.Report == nil,
		"Runner.SHA256": !sums.MatchString(g.Runner.SHA256), "Runner": (g.Runner.Path == "") == (g.Runner.URL == ""),
	} {
		if missing {
			return firerunner.Errorf(firerunner.Invalid, "provision: %s is missing or wrong", name)
		}
	}
	if g.Runner.URL != "" {
		if u, err := url.Parse(g.Runner.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
			return firerunner.Errorf(firerunner.Invalid, "provision: the address of gitlab-runner is not a web address without a password")
		}
	}
	return nil
}

// hello learns what kind of guest this is, and says so.
func (g *guest) hello(ctx context.Context) error {
	const step = "look around"
	out, err := g.step(ctx, step, "is there a POSIX shell in the image?", "id -u; uname -m; uname -r", nil)
	if err != nil {
		return err
	}
	said := strings.Fields(out)
	if len(said) != 3 {
		return g.failed(step, errors.New("the answer makes no sense")).WithHint("does a login print something by itself? It must not where a command is run")
	}
	if said[1] != "x86_64" {
		return g.failed(step, fmt.Errorf("the guest is %q, and gitlab-runner is installed for x86_64", clean(said[1]))).WithHint("choose an image for amd64")
	}
	if said[0] != "0" {
		g.root = "sudo -n "
		remedy := "log in as root, or let " + g.User + " sudo without a password"
		if _, err := g.step(ctx, "become root", remedy, g.root+"true", nil); err != nil {
			return err
		}
	}
	g.greeted = true
	g.Report(firerunner.GuestReport{
		Kind:    firerunner.ReportHello,
		Message: fmt.Sprintf("over SSH after %v, kernel %s", time.Since(g.began).Round(100*time.Millisecond), clean(said[2])),
	})
	return nil
}

// shut closes the metadata service before anything else is done: it holds the guest's private host key. Where it cannot
// be ended outside, root blocks the way to it, which a job cannot undo: a route that refuses counts for every interface,
// and one that leads to nothing but the metadata (Flintlock's eth0, known by its address) is turned off.
func (g *guest) shut(ctx context.Context) error {
	if g.Shut != nil && g.Shut() {
		return nil
	}
	_, err := g.step(ctx, "close the metadata service", "the image needs ip (package iproute2)", g.asRoot(`
ip route replace blackhole `+metadataAddress+`/32
for link in /sys/class/net/*; do
  [ "$(cat "$link/address")" = `+metadataMAC+` ] && ip link set dev "${link##*/}" down
done
if ip route get `+metadataAddress+` >/dev/null 2>&1; then echo "it can still be reached" >&2; exit 1; fi
`), nil)
	return err
}

// asRoot is a script that root runs and that ends at its first error.
func (g *guest) asRoot(script string) string { return g.root + "sh -c " + quoted("set -eu\n"+script) }

// prepare makes the job's user and the folders, and sees to it that names are looked up where the microVM's network says.
func (g *guest) prepare(ctx context.Context) error {
	dns := ""
	if at, err := netip.ParseAddr(g.Start.Network.DNS); err == nil {
		// A link is the system's own way, such as systemd-resolved's, which cloud-init has told the same.
		dns = "[ -L /etc/resolv.conf ] || echo 'nameserver " + at.String() + "' > /etc/resolv.conf\n"
	}
	_, err := g.step(ctx, "make the job's user", "the image needs useradd and install (packages passwd and coreutils)", g.asRoot(`
id -u `+jobUser+` >/dev/null 2>&1 || useradd --create-home --shell /bin/bash `+jobUser+`
install -d -m 0755 `+runDir+`
install -d -m 0700 -o `+jobUser+` `+privateDir+` /builds /cache
`+dns), nil)
	return err
}

// install brings gitlab-runner into the guest, unless this very one is there. What arrives under its name has the
// right sum: a broken upload is a file of another name.
func (g *guest) install(ctx context.Context) error {
	const (
		step = "install gitlab-runner"
		temp = program + ".new"
	)
	proven := `echo "` + g.Runner.SHA256 + `  ` + temp + `" | sha256sum -c - >/dev/null
chmod 0755 ` + temp + `
mv ` + temp + ` ` + program
	there, err := g.step(ctx, "look for gitlab-runner", "the image needs sha256sum (package coreutils)",
		"sha256sum "+program+" 2>/dev/null || echo none", nil)
	if err != nil {
		return err
	}
	if strings.HasPrefix(there, g.Runner.SHA256+" ") {
		return nil
	}
	if g.Runner.URL != "" {
		_, err := g.stepWithin(ctx, g.Timeouts.Upload, step, "can microVMs reach that address, is the sum that file's, and has the image curl or wget?", g.asRoot(`
rm -f `+temp+`
if command -v curl >/dev/null; then curl -fsSL --retry 3 -o `+temp+` `+quoted(g.Runner.URL)+`
else wget -q -O `+temp+` `+quoted(g.Runner.URL)+`
fi
`+proven), nil)
		return err
	}
	file, err := os.Open(g.Runner.Path)
	if err != nil {
		if os.IsPermission(err) {
			return g.failed(step, err).WithHint("it is read as uid %d: chmod o+r, and o+x for the folders above it", os.Getuid())
		}
		return g.failed(step, err).WithHint("correct the path of gitlab-runner in the profile")
	}
	defer file.Close()
	hash := sha256.New()
	_, err = g.stepWithin(ctx, g.Timeouts.Upload, step, "is there room in the image, and is the file the one that the sum was made of?",
		g.asRoot("cat > "+temp+"\n"+proven), bufio.NewReaderSize(io.TeeReader(file, hash), 256<<10))
	if sum := hex.EncodeToString(hash.Sum(nil)); err != nil && sum != g.Runner.SHA256 && sum != emptySum {
		return g.failed(step, fmt.Errorf("%s has the sum %s, not %s, as far as it was read", g.Runner.Path, sum, g.Runner.SHA256)).
			WithHint("was the file changed? Correct the sum in the profile")
	}
	return err
}

// emptySum is the sum of nothing: no byte was read.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// configure writes gitlab-runner's configuration, which holds the token, and the certificates for it.
func (g *guest) configure(ctx context.Context) error {
	const step = "write the configuration"
	settings, err := g.Settings(g.Start)
	if err != nil {
		return g.failed(step, err)
	}
	const remedy = "is /run writable in the image?"
	if g.Start.CA != "" {
		if _, err := g.step(ctx, step, remedy, g.asRoot("cat > "+caFile), strings.NewReader(g.Start.CA)); err != nil {
			return err
		}
	}
	_, err = g.step(ctx, step, remedy, g.asRoot("umask 077\ncat > "+settingsFile+"\nchown "+jobUser+" "+settingsFile), strings.NewReader(settings))
	return err
}

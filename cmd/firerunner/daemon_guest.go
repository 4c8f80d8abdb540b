package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner"
)

// localGitLab is GitLab's name in guests where its own URL has only an address.
const localGitLab = "gitlab.firerunner.internal"

// guestRoutes returns GitLab's URL as guests say it, and the one route that leads there. A name is needed, because
// guests cannot reach private addresses, this machine's least of all: the name exists in their own DNS only.
func guestRoutes(gitlabURL, guestURL string) (string, []firerunner.NetworkRoute, error) {
	ours, err := url.Parse(gitlabURL)
	if err != nil {
		return "", nil, firerunner.Errorf(firerunner.Invalid, "gitlab.url: %w", err)
	}
	if guestURL == "" {
		guestURL = gitlabURL
	}
	theirs, err := url.Parse(guestURL)
	if err != nil {
		return "", nil, firerunner.Errorf(firerunner.Invalid, "gitlab.guest_url: %w", err)
	}
	if _, err := netip.ParseAddr(theirs.Hostname()); err == nil || theirs.Hostname() == "localhost" {
		if theirs.Scheme != "http" {
			return "", nil, firerunner.Errorf(firerunner.Invalid, "gitlab.guest_url %s has an address where guests need a name", guestURL).
				WithHint("set gitlab.guest_url to a URL with the name that GitLab's certificate is for")
		}
		theirs.Host = net.JoinHostPort(localGitLab, strconv.Itoa(port(theirs)))
	}
	route := firerunner.NetworkRoute{
		Name: theirs.Hostname(), Port: port(theirs), Dial: net.JoinHostPort(ours.Hostname(), strconv.Itoa(port(ours))),
	}
	return strings.TrimRight(theirs.String(), "/"), []firerunner.NetworkRoute{route}, nil
}

func port(u *url.URL) int {
	if p, err := strconv.Atoi(u.Port()); err == nil {
		return p
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

// readCA returns the PEM for guests; nothing if there is none.
func readCA(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return "", firerunner.Errorf(firerunner.Invalid, "reading gitlab.ca_file: %w", err)
	}
	return string(pem), nil
}

// installationID is this installation's mark on everything that it makes elsewhere. It is made once and kept in the
// state folder, because without it what an earlier process left could not be told from what is somebody else's.
func installationID(stateDir string) (string, error) {
	path := installationFile(stateDir)
	read := func() (string, error) { return readInstallation(path) }
	if id, err := read(); !errors.Is(err, os.ErrNotExist) {
		return id, err
	}
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(stateDir, ".installation-*")
	if err != nil {
		return "", firerunner.Errorf(firerunner.Unavailable, "writing the installation's mark: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(hex.EncodeToString(b[:]) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", firerunner.Errorf(firerunner.Unavailable, "writing the installation's mark: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, os.ErrExist) { // of two, the first wins
		return "", firerunner.Errorf(firerunner.Unavailable, "writing the installation's mark: %w", err)
	}
	return read()
}

func installationFile(stateDir string) string { return filepath.Join(stateDir, "installation") }

// readInstallation reads the mark; os.ErrNotExist where there is none yet.
func readInstallation(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(data))
	if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(id) {
		return "", firerunner.Errorf(firerunner.Invalid, "%s does not hold 12 hexadecimal digits", path).
			WithHint("restore the file; if that is not possible, delete it, and the runners named firerunner in GitLab")
	}
	return id, nil
}

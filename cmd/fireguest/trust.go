package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
)

// bundles are where systems keep the certificates that their programs trust, in one file. crypto/x509 looks at the same.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Alpine
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL; what /etc/pki/tls/certs/ca-bundle.crt points to
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", // SUSE
	"/etc/ssl/cert.pem",      // Alpine
}

// anchors are where a system takes up certificates when a job makes its bundle anew (update-ca-certificates,
// update-ca-trust).
var anchors = []string{"/usr/local/share/ca-certificates", "/etc/pki/ca-trust/source/anchors"}

// trustCA makes every program of the system trust GitLab's CA. gitlab-runner speaks to GitLab through the relay, in plain
// HTTP, so it does not hand the chain of GitLab's certificate to git as it would otherwise.
func (a *agent) trustCA(pem string) error {
	if pem == "" {
		return nil
	}
	var failed error
	found := false
	for _, bundle := range bundles {
		switch err := appendOnce(a.path(bundle), pem); {
		case err == nil:
			found = true
		case !errors.Is(err, fs.ErrNotExist):
			failed = errors.Join(failed, err)
		}
	}
	for _, dir := range anchors {
		if _, err := os.Stat(a.path(dir)); err == nil {
			failed = errors.Join(failed, os.WriteFile(filepath.Join(a.path(dir), "firerunner.crt"), []byte(pem), 0o644))
		}
	}
	if !found && failed == nil { // a system without any: there it is the only one
		bundle := a.path(bundles[0])
		if failed = os.MkdirAll(filepath.Dir(bundle), 0o755); failed == nil {
			failed = os.WriteFile(bundle, []byte(pem), 0o644)
		}
	}
	if failed != nil {
		return fmt.Errorf("make the system trust GitLab's CA: %w", failed)
	}
	return nil
}

// appendOnce adds a text to a file that is there and does not have it yet.
func appendOnce(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil || bytes.Contains(old, []byte(text)) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		text = "\n" + text
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// caFile is where a job finds the CA of GitLab: the host's, or the system's where GitLab has a certificate that everybody
// trusts.
func (a *agent) caFile(start firerunner.GuestStart) string {
	if start.CA != "" {
		return gitlabrunner.CAFile
	}
	if strings.HasPrefix(start.GitLabURL, "https:") {
		for _, bundle := range bundles {
			if _, err := os.Stat(a.path(bundle)); err == nil {
				return bundle
			}
		}
	}
	return ""
}

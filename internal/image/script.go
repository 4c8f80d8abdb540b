package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"github.com/firerunner/firerunner"
)

// Script is a program that runs in the root file system while an image is built.
type Script struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`

	body []byte
}

const (
	maxScript  = 1 << 20
	maxScripts = 64
)

// ReadScript reads a script from a file on this machine: what is read now is what runs, and what the image is known by.
// It needs no mode; where its first line does not name an interpreter, the image's /bin/sh runs it.
func ReadScript(path string) (Script, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Script{}, firerunner.Errorf(firerunner.Invalid, "read the script: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxScript {
		return Script{}, firerunner.Errorf(firerunner.Invalid, "read the script %s: it is not a file of at most 1 MiB", path)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return Script{}, firerunner.Errorf(firerunner.Invalid, "read the script: %w", err)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return Script{}, firerunner.Errorf(firerunner.Invalid, "read the script %s: it is empty", path)
	}
	sum := sha256.Sum256(body)
	return Script{Name: visible(filepath.Base(path)), SHA256: hex.EncodeToString(sum[:]), body: body}, nil
}

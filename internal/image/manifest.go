package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
)

// The files of an image.
const (
	kernelFile   = "kernel"
	initrdFile   = "initrd"
	rootfsFile   = "rootfs.ext4"
	manifestFile = "manifest.json"
)

// Manifest says what an image is and what went into it.
type Manifest struct {
	Digest        string            `json:"digest"` // sha256:... over Files, Cmdline
	Files         map[string]string `json:"files"`  // digest of each: SHA-256; of rootfs.ext4 over what is not zero
	Cmdline       string            `json:"cmdline"`
	Recipe        Recipe            `json:"recipe"`
	BuiltAt       time.Time         `json:"built_at"`
	BuildKey      string            `json:"build_key"` // over everything that was put in
	BaseKey       string            `json:"base_key"`
	KernelVersion string            `json:"kernel_version"`
	AgentVersion  string            `json:"agent_version"`
	AgentSHA256   string            `json:"agent_sha256"`
	RunnerVersion string            `json:"runner_version"`
	RunnerSHA256  string            `json:"runner_sha256"`
	Packages      []Package         `json:"packages"` // what Debian's package tool has installed
	SizeBytes     int64             `json:"size_bytes"`
	// RootFormat says in which way rootfs.ext4 was written: the same tree and the same format are the same bytes.
	RootFormat int `json:"root_format,omitempty"`
	// From is the container image that the root file system is made from, by digest: ubuntu@sha256:...
	From string `json:"from,omitempty"`
}

// rootFormat is raised when writeExt4 writes other bytes for the same tree.
const rootFormat = 1

// Package is an installed Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// digest computes what Digest must be.
func (m *Manifest) digest() string {
	return "sha256:" + keyOf("image", m.Files[kernelFile], m.Files[initrdFile], m.Files[rootfsFile], m.Cmdline)
}

// image is the manifest in the words of the rest of the program.
func (m *Manifest) image(dir, name string) firerunner.Image {
	return firerunner.Image{
		Name: name, Digest: m.Digest,
		Kernel: filepath.Join(dir, kernelFile), Initrd: filepath.Join(dir, initrdFile), RootFS: filepath.Join(dir, rootfsFile),
		Cmdline: m.Cmdline, Runner: m.RunnerVersion, Agent: m.AgentVersion, BuiltAt: m.BuiltAt, SizeBytes: m.SizeBytes,
	}
}

// measure fills in the digests and the size of the files in dir.
func (m *Manifest) measure(dir string) error {
	m.Files, m.SizeBytes = map[string]string{}, 0
	for _, name := range []string{kernelFile, initrdFile, rootfsFile} {
		sum := fileSHA256
		if name == rootfsFile {
			sum = sparseSHA256
		}
		digest, err := sum(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		m.Files[name] = digest
		size, err := allocated(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		m.SizeBytes += size
	}
	m.Digest = m.digest()
	return nil
}

func readManifest(dir string) (*Manifest, error) {
	var m Manifest
	return &m, readJSON(filepath.Join(dir, manifestFile), &m)
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

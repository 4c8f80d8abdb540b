// Package api names the place where a step service would listen.
package api

import (
	"net"
	"os"
	"path/filepath"
)

// DefaultSocketPath is where a step service would listen.
func DefaultSocketPath() string { return filepath.Join(os.TempDir(), "step-runner.sock") }

// SocketAddr is the address of the socket at path.
func SocketAddr(path string) *net.UnixAddr { return &net.UnixAddr{Name: path, Net: "unix"} }

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// portName is the name of the virtio-serial port that leads to the host.
const portName = "firerunner.0"

// openPort opens the port by its name; there is no udev to make a link for it. It makes sure that only root can:
// a job that spoke for the agent could say what it likes about itself.
func openPort(sys, dev string, atMost time.Duration) (*os.File, error) {
	for end := time.Now().Add(atMost); ; time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(sys, "class/virtio-ports/*/name"))
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(text)) != portName {
				continue
			}
			file := filepath.Join(dev, filepath.Base(filepath.Dir(path)))
			if err := os.Chmod(file, 0o600); err != nil {
				break // the kernel has the port, but not the file yet
			}
			return os.OpenFile(file, os.O_RDWR, 0)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no port %s after %s", portName, atMost)
		}
	}
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/provision"
)

// provisioner makes what stands outside of microVMs whose image has no agent. For qemu it is in the shim, which outlives
// the daemon; on flintlock's hosts the daemon does it.
func provisioner(logger *slog.Logger) provision.Maker {
	return provision.Maker{
		Settings: gitlabrunner.Settings, Arguments: gitlabrunner.Arguments, Logger: logger,
		Parse: func(line []byte) (firerunner.GuestReport, bool) { return gitlabrunner.ParseLine(line).Report() },
	}
}

// missingRunners says for each profile that is provisioned over SSH why the gitlab-runner on this machine cannot be
// installed; nothing if all can. The sum is looked at again in each microVM.
func missingRunners(profiles []firerunner.Profile) error {
	var missing []error
	for _, p := range profiles {
		if p.Provision != firerunner.ProvisionSSH || p.SSH.RunnerPath == "" {
			continue
		}
		if err := checkSum(p.SSH.RunnerPath, p.SSH.RunnerSHA256); err != nil {
			missing = append(missing, firerunner.Errorf(firerunner.Invalid, "profile %s: gitlab-runner: %w", p.Name, err).
				WithHint("correct ssh.gitlab_runner and ssh.gitlab_runner_sha256; print the sum with sha256sum"))
		}
	}
	return errors.Join(missing...)
}

func checkSum(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != want {
		return fmt.Errorf("%s has the SHA-256 %s, not %s", path, sum, want)
	}
	return nil
}

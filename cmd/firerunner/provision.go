package main

import (
	"log/slog"

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

package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/guest"
	"github.com/firerunner/firerunner/internal/network"
)

// shimLogBytes is most that a shim's log may hold: what a guest can provoke must not fill a disk.
const shimLogBytes = 256 << 10

// newShimCommand is what the qemu driver starts, one for each microVM. People do not.
func newShimCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "shim",
		Short:  "Hold one microVM (the daemon starts it)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			logger := slog.New(slog.NewJSONHandler(qemu.NewCappedWriter(a.Stderr, shimLogBytes), nil))
			// What a guest is told of its network does not depend on its policy.
			network0, err := network.New(network.Config{Logger: logger})
			if err != nil {
				return err
			}
			guestNetwork := network0.Guest()
			if err := network0.Close(); err != nil {
				return err
			}
			return qemu.RunShim(command.Context(), qemu.Shim{
				In: a.Stdin, Out: a.Stdout, Logger: logger,
				Guest: guest.Serve, GuestNetwork: guestNetwork, Outside: provisioner(logger).Outside,
				Network: func(policy firerunner.NetworkPolicy) (qemu.Network, error) {
					return network.New(network.Config{Policy: policy, Logger: logger})
				},
			})
		},
	}
}

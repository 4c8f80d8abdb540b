package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/image"
)

// registryFlags are how a registry is reached.
type registryFlags struct {
	username, passwordFile, caFile string
	insecure                       bool
}

func (f *registryFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.username, "username", "", "`name` at the registry (default: what docker login has left)")
	flags.StringVar(&f.passwordFile, "password-file", "", "`path` of a file with the password or token, for its owner only")
	flags.StringVar(&f.caFile, "ca-file", "", "`path` of a PEM file with the authority of the registry's certificate")
	flags.BoolVar(&f.insecure, "insecure", false, "plain HTTP, or a certificate that nobody has signed, is good enough")
	command.MarkFlagsRequiredTogether("username", "password-file")
}

func (f *registryFlags) registry() (image.Registry, error) {
	r := image.Registry{Username: f.username, CAFile: f.caFile, Insecure: f.insecure, Agent: "firerunner/" + buildVersion()}
	if f.passwordFile != "" {
		password, err := config.ReadSecret(f.passwordFile)
		if err != nil {
			return r, firerunner.Errorf(firerunner.Invalid, "reading the registry's password: %w", err).WithHint("%s", firerunner.HintOf(err))
		}
		r.Password = password
	}
	return r, nil
}

func newImagePushCommand(a *app) *cobra.Command {
	var way registryFlags
	var to string
	command := &cobra.Command{
		Use:   "push NAME|DIGEST --to REF",
		Short: "Upload an image to a container registry, for hosts with Flintlock",
		Long: `Uploads an image as two container images: the root file system as REF, and the
kernel with its initial RAM disk beside it, as REF with "-kernel" after the tag.
It prints both by digest: write these into the configuration, they never change.

Hosts pull without a password, so the registry must serve REF to anybody on their
network. The same image is always uploaded as the same two digests.`,
		Example: `  firerunner image push default --to registry.example.com/ci/guest:2026-11
  firerunner image push default --to localhost:5000/guest:v1 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			registry, err := way.registry()
			if err != nil {
				return err
			}
			pushed, err := registry.Push(command.Context(), images, args[0], to, a.imageProgress())
			if err != nil {
				return err
			}
			return a.print(pushed, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "rootfs  %s\nkernel  %s\n", pushed.RootFS, pushed.Kernel)
				return err
			})
		},
	}
	command.Flags().StringVar(&to, "to", "", "where to: `REF`, such as registry.example.com/ci/guest:v1")
	_ = command.MarkFlagRequired("to") // an error only if there is no such flag
	way.add(command)
	return command
}

// pullResult is what --json shows of a pull.
type pullResult struct {
	imageResult
	From string `json:"from"` // by digest
}

func newImagePullCommand(a *app) *cobra.Command {
	var way registryFlags
	var as string
	command := &cobra.Command{
		Use:   "pull REF",
		Short: "Bring an image back from a container registry",
		Long: `Brings an image that "firerunner image push" has uploaded to this machine, in the
form that the qemu driver boots. It is the very image that was pushed, with the
same digest; anything else is refused. Interrupted, it leaves nothing half-made.`,
		Example: `  firerunner image pull registry.example.com/ci/guest:2026-11
  firerunner image pull registry.example.com/ci/guest@sha256:DIGEST --name node`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			cfg, err := a.load(true)
			if err != nil {
				return err
			}
			if as == "" {
				as = cfg.VM.Image
			}
			registry, err := way.registry()
			if err != nil {
				return err
			}
			images := &image.Store{Dir: cfg.Image.Dir}
			pulled, err := registry.Pull(command.Context(), images, args[0], as, a.imageProgress())
			if err != nil {
				return err
			}
			pulledImage, err := newImageResult(command.Context(), images, pulled.Image)
			if err != nil {
				return err
			}
			result := pullResult{pulledImage, pulled.From}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "image %s is %s, from %s\n", result.Name, shortDigest(result.Digest), result.From)
				return err
			})
		},
	}
	command.Flags().StringVar(&as, "name", "", "the image's name here (default: vm.image of the configuration)")
	way.add(command)
	return command
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/image"
)

func newImageCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "image",
		Short: "Build and look after guest images",
		Long: `An image is a kernel, an initial RAM disk with the guest agent, and a root file
system with gitlab-runner. It never changes; a name points to one of them, and
every microVM writes to a disk of its own on top.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newImageBuildCommand(a), newImageListCommand(a), newImageInspectCommand(a), newImageRemoveCommand(a),
		newImagePushCommand(a), newImagePullCommand(a), newImageVerifyCommand(a), newImageInsideCommand())
	return command
}

// imageResult is an image as --json shows it.
type imageResult struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	Runner    string    `json:"gitlab_runner"`
	Agent     string    `json:"agent"`
	BuiltAt   time.Time `json:"built_at"`
	SizeBytes int64     `json:"size_bytes"`
	Suite     string    `json:"suite"`          // of the system, or only of the kernel if there is From
	From      string    `json:"from,omitempty"` // container image, by digest
	Packages  []string  `json:"packages"`       // that were asked for, by whatever way
	Scripts   []string  `json:"run,omitempty"`
	SSHD      bool      `json:"sshd"`
	NoAgent   bool      `json:"no_agent"`
}

func newImageResult(ctx context.Context, images *image.Store, i firerunner.Image) (imageResult, error) {
	m, err := images.Inspect(ctx, i.Digest)
	r := imageResult{
		Name: i.Name, Digest: i.Digest, Runner: i.Runner, Agent: i.Agent, BuiltAt: i.BuiltAt, SizeBytes: i.SizeBytes,
		Suite: m.Recipe.Suite, From: m.From, Packages: append([]string{}, m.Recipe.Packages...), SSHD: m.Recipe.SSHD, NoAgent: m.Recipe.NoAgent,
	}
	for _, s := range m.Recipe.Scripts {
		r.Scripts = append(r.Scripts, s.Name)
	}
	return r, err
}

// system is where an image's system is from, as people read it.
func (r imageResult) system() string {
	if r.From == "" {
		return r.Suite
	}
	name, digest, _ := strings.Cut(r.From, "@")
	return name + "@" + shortDigest(digest)
}

func newImageListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images that are here",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			found, err := images.List(command.Context())
			if err != nil {
				return err
			}
			results := make([]imageResult, 0, len(found))
			for _, i := range found {
				r, err := newImageResult(command.Context(), images, i)
				if firerunner.CodeOf(err) == firerunner.NotFound {
					continue // removed a moment ago
				}
				if err != nil {
					return err
				}
				results = append(results, r)
			}
			return a.print(results, func(w io.Writer) error {
				if len(results) == 0 {
					fmt.Fprintln(a.Stderr, "no image yet: firerunner image build --gitlab-runner PATH")
					return nil
				}
				table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(table, "NAME\tDIGEST\tGITLAB-RUNNER\tAGENT\tBUILT\tSIZE\tSYSTEM")
				for _, r := range results {
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(r.Name, "-"), shortDigest(r.Digest), cmp.Or(r.Runner, "-"),
						cmp.Or(r.Agent, "-"), r.BuiltAt.Local().Format(time.DateTime), megabytes(r.SizeBytes), r.system())
				}
				return table.Flush()
			})
		},
	}
}

func newImageInspectCommand(a *app) *cobra.Command {
	var verify bool
	command := &cobra.Command{
		Use:   "inspect NAME|DIGEST",
		Short: "Print what an image is and what went into it",
		Long:  `Prints the image's manifest. With --verify, every file is read and compared with it.`,
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			manifest, err := images.Inspect(command.Context(), args[0])
			if err != nil {
				return err
			}
			if verify {
				if err := images.Verify(command.Context(), args[0]); err != nil {
					return err
				}
			}
			return a.print(manifest, func(w io.Writer) error { return printManifest(w, manifest, verify) })
		},
	}
	command.Flags().BoolVar(&verify, "verify", false, "read every file and compare it with the manifest")
	return command
}

func printManifest(w io.Writer, m image.Manifest, verified bool) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "digest\t%s\n", m.Digest)
	if verified {
		fmt.Fprintf(table, "verified\tevery file is what was built\n")
	}
	fmt.Fprintf(table, "built\t%s\n", m.BuiltAt.Local().Format(time.RFC3339))
	fmt.Fprintf(table, "size\t%s\n", megabytes(m.SizeBytes))
	if m.From != "" {
		fmt.Fprintf(table, "from\t%s\n", m.From)
	} else {
		fmt.Fprintf(table, "suite\t%s\n", m.Recipe.Suite)
	}
	fmt.Fprintf(table, "kernel\t%s\n", m.KernelVersion)
	if m.Recipe.NoAgent {
		fmt.Fprintf(table, "agent\tnone: the system's own init starts\n")
	} else {
		fmt.Fprintf(table, "gitlab-runner\t%s (sha256 %s)\n", m.RunnerVersion, m.RunnerSHA256)
		fmt.Fprintf(table, "agent\t%s (sha256 %s)\n", m.AgentVersion, m.AgentSHA256)
	}
	fmt.Fprintf(table, "sudo\t%t\n", m.Recipe.Sudo)
	fmt.Fprintf(table, "sshd\t%t\n", m.Recipe.SSHD)
	fmt.Fprintf(table, "packages\t%d; asked for: %s\n", len(m.Packages), cmp.Or(strings.Join(m.Recipe.Packages, ", "), "none"))
	for _, s := range m.Recipe.Scripts {
		fmt.Fprintf(table, "run\t%s (sha256 %s)\n", s.Name, s.SHA256)
	}
	return table.Flush()
}

func newImageRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME|DIGEST...",
		Aliases: []string{"remove"},
		Short:   "Remove images that no microVM uses",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			images, err := a.images()
			if err != nil {
				return err
			}
			used, err := a.usedImages(command.Context())
			if err != nil {
				return err
			}
			var failed []error
			removed := []string{}
			for _, ref := range args {
				if err := images.Remove(command.Context(), ref, func(digest string) bool { return used[digest] }); err != nil {
					failed = append(failed, err)
					continue
				}
				removed = append(removed, ref)
			}
			err = a.print(map[string][]string{"removed": removed}, func(w io.Writer) error {
				for _, ref := range removed {
					fmt.Fprintf(w, "removed %s\n", ref)
				}
				return nil
			})
			return errors.Join(append(failed, err)...)
		},
	}
}

// images opens the images' folder that the configuration names.
func (a *app) images() (*image.Store, error) {
	cfg, err := a.load(true)
	if err != nil {
		return nil, err
	}
	return &image.Store{Dir: cfg.Image.Dir}, nil
}

func shortDigest(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}

func megabytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<19)>>20) }

// exists reports whether there is a file or folder; any other doubt counts as one.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/image"
)

const imageBuildLong = `Builds an image: a system, the guest agent, and a gitlab-runner that you bring (a
path on this machine, or a URL with its SHA-256).

The system is one of Debian's or Ubuntu's releases (--suite), made of packages
from this machine's apt sources if they have the release or another one of the
same distribution, else from --mirror. Or it is any container image (--from),
which need not know anything of FireRunner; no docker is needed. A name without
a registry or tag means what it means to docker. The digest that it was then is
kept with the image. Kernel and initial RAM disk are Debian's as ever.

--add-package installs more packages, in a container image by its own apt-get.
--run runs a script of yours in the system when all packages are there: as root
in it, but as nobody on this machine, which it does not see; and without network,
unless --run-network. Package tools have this machine's network and proxies.

With --no-agent the system's own init starts, and there is neither agent nor
gitlab-runner: for profiles that install the runner over SSH (--sshd). There are
no SSH host keys in an image: each microVM gets its own. With an agent, it is the
agent that starts, and not sshd.

What is there already is not built again; --refresh fetches newer packages. It
needs no configuration file. Interrupted, it leaves nothing half-made.`

const imageBuildExample = `  firerunner image build --gitlab-runner /usr/bin/gitlab-runner
  firerunner image build --gitlab-runner ./gitlab-runner --name node --add-package nodejs,npm
  firerunner image build --gitlab-runner ./gitlab-runner --name jammy --from ubuntu:22.04
  firerunner image build --gitlab-runner ./gitlab-runner --name team --from registry.example.com/team/ci@sha256:DIGEST --run ./setup.sh
  firerunner image build --gitlab-runner ./gitlab-runner --name noble --suite noble --mirror http://mirror.example.com/ubuntu
  firerunner image build --name plain --no-agent --sshd --add-package cloud-init
  firerunner image build --gitlab-runner-url URL --gitlab-runner-sha256 SUM --refresh`

// imageBuild is what the flags of image build say.
type imageBuild struct {
	recipe  image.Recipe
	former  []string // of --package
	mirrors []string
	scripts []string
	way     registryFlags
}

func newImageBuildCommand(a *app) *cobra.Command {
	var b imageBuild
	command := &cobra.Command{
		Use:     "build",
		Short:   "Build a guest image, or find that it is there already",
		Long:    imageBuildLong,
		Example: imageBuildExample,
		Args:    cobra.NoArgs,
		RunE:    func(command *cobra.Command, _ []string) error { return a.buildImage(command, b) },
	}
	flags, recipe := command.Flags(), &b.recipe
	flags.StringVar(&recipe.Name, "name", "", "the image's name (default: vm.image of the configuration)")
	flags.StringVar(&recipe.RunnerPath, "gitlab-runner", "", "gitlab-runner binary for Linux on this machine, `path`")
	flags.StringVar(&recipe.RunnerURL, "gitlab-runner-url", "", "where to download gitlab-runner, `URL`")
	flags.StringVar(&recipe.RunnerSHA256, "gitlab-runner-sha256", "", "what the download must be, `sum` in hexadecimal")
	flags.StringVar(&recipe.AgentPath, "agent", "", "guest agent, `path` (default: fireguest beside this program)")
	flags.StringVar(&recipe.From, "from", "", "container image to take the system from, `reference`")
	flags.StringVar(&recipe.Suite, "suite", "", "release of Debian or Ubuntu, `name` (default: image.suite of the configuration)")
	flags.StringArrayVar(&b.mirrors, "mirror", nil, "`URL` of a mirror of the suite, or a line like deb URL SUITE main; may be repeated")
	flags.StringArrayVar(&recipe.Keyrings, "keyring", nil, "`path` of a file with the keys of the mirrors; may be repeated")
	flags.StringSliceVar(&recipe.Packages, "add-package", nil, "one more package, `name`; may be repeated, and several with commas")
	flags.StringSliceVar(&b.former, "package", nil, "the former name of --add-package")
	_ = flags.MarkHidden("package") // an error only if there is no such flag
	flags.StringArrayVar(&b.scripts, "run", nil, "run this script in the system, `path`; may be repeated")
	flags.BoolVar(&recipe.Network, "run-network", false, "give scripts this machine's network")
	flags.BoolVar(&recipe.SSHD, "sshd", false, "with openssh-server, for profiles that install the runner over SSH")
	flags.BoolVar(&recipe.NoAgent, "no-agent", false, "without agent and gitlab-runner: the system's own init starts")
	flags.BoolVar(&recipe.Sudo, "sudo", false, "jobs may become root inside their microVM")
	flags.BoolVar(&recipe.Refresh, "refresh", false, "fetch newer packages although the recipe has not changed")
	b.way.add(command)
	command.MarkFlagsMutuallyExclusive("gitlab-runner", "gitlab-runner-url", "no-agent")
	command.MarkFlagsRequiredTogether("gitlab-runner-url", "gitlab-runner-sha256")
	command.MarkFlagsOneRequired("gitlab-runner", "gitlab-runner-url", "no-agent")
	command.MarkFlagsMutuallyExclusive("from", "suite")
	command.MarkFlagsMutuallyExclusive("from", "keyring")
	return command
}

func (a *app) buildImage(command *cobra.Command, b imageBuild) error {
	cfg, err := a.load(true)
	if err != nil {
		return err
	}
	recipe := b.recipe
	if recipe.Name == "" {
		recipe.Name = cfg.VM.Image
	}
	if recipe.AgentPath == "" && !recipe.NoAgent {
		if recipe.AgentPath, err = besideUs("fireguest"); err != nil {
			return err
		}
	}
	recipe.Packages = append(recipe.Packages, b.former...)
	switch {
	case recipe.From != "": // what the configuration says of mirrors and packages is about Debian's own system
		recipe.Suite, recipe.Mirrors, recipe.FromMirrors = cfg.Image.Suite, cfg.Image.Mirrors, b.mirrors
	case recipe.Suite != "" && recipe.Suite != cfg.Image.Suite:
		recipe.Mirrors = b.mirrors
	default:
		recipe.Suite, recipe.Mirrors = cfg.Image.Suite, cfg.Image.Mirrors
		if len(b.mirrors) > 0 {
			recipe.Mirrors = b.mirrors
		}
	}
	if recipe.From == "" && !recipe.NoAgent {
		recipe.Packages = append(recipe.Packages, cfg.Image.Packages...)
	}
	recipe.Sudo = recipe.Sudo || cfg.Image.Sudo && !recipe.NoAgent
	for i, path := range recipe.Keyrings {
		if recipe.Keyrings[i], err = filepath.Abs(path); err != nil {
			return firerunner.Errorf(firerunner.Invalid, "the keyring %s: %w", path, err)
		}
	}
	for _, path := range b.scripts {
		script, err := image.ReadScript(path)
		if err != nil {
			return err
		}
		recipe.Scripts = append(recipe.Scripts, script)
	}
	registry, err := b.way.registry()
	if err != nil {
		return err
	}
	images := &image.Store{Dir: cfg.Image.Dir}
	builder := image.Builder{Store: images, Registry: registry, Inside: []string{"image", insideCommand}}
	built, err := builder.Build(command.Context(), recipe, a.imageProgress())
	if err != nil {
		return err
	}
	result, err := newImageResult(command.Context(), images, built)
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error {
		runner := "gitlab-runner " + result.Runner
		if result.Agent == "" {
			runner = "without agent and gitlab-runner"
		}
		_, err := fmt.Fprintf(w, "image %s is %s, %s on disk, %s\n", result.Name, shortDigest(result.Digest), megabytes(result.SizeBytes), runner)
		return err
	})
}

// insideCommand is how an image build calls this program as the first process of its sandbox.
const insideCommand = "inside"

func newImageInsideCommand() *cobra.Command {
	return &cobra.Command{
		Use:                insideCommand,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if os.Getpid() != 1 {
				return firerunner.Errorf(firerunner.Invalid, "this is only for the sandbox of an image build")
			}
			os.Exit(image.Inside(args))
			return nil
		},
	}
}

// imageProgress prints what a build does, with the seconds that each step took, and what programs in the image say.
func (a *app) imageProgress() func(image.Progress) {
	return func(p image.Progress) {
		line := p.Step
		if p.Detail != "" {
			line += ": " + p.Detail
		}
		switch {
		case p.Output != "":
			fmt.Fprintf(a.Stderr, "         |  %s\n", p.Output)
		case p.Done:
			fmt.Fprintf(a.Stderr, "%7.1f s  %s\n", p.Elapsed.Seconds(), line)
		case p.Detail == "" || a.verbose:
			fmt.Fprintf(a.Stderr, "         .  %s\n", line)
		}
	}
}

// besideUs finds a program in the folder of this one.
func besideUs(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", firerunner.Errorf(firerunner.Internal, "looking for %s: %w", name, err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", firerunner.Errorf(firerunner.NotFound, "there is no %s", path).
			WithHint("name the guest agent with --agent, or put it beside %s", self)
	}
	return path, nil
}

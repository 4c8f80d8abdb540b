// Command gitlab-runner is a test client: GitLab Runner 19.4.0 packages, shell
// executor only, native steps and input interpolation left out.
//
// Everything that speaks to GitLab and runs a job is GitLab's own code,
// unpatched, so a test that passes with it says something about the real
// runner. It is not a runner to ship: product images take the official package.
package main

import (
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli"

	"gitlab.com/gitlab-org/gitlab-runner/commands"
	"gitlab.com/gitlab-org/gitlab-runner/commands/helpers"
	"gitlab.com/gitlab-org/gitlab-runner/common"
	"gitlab.com/gitlab-org/gitlab-runner/executors"
	"gitlab.com/gitlab-org/gitlab-runner/executors/shell"
	clihelpers "gitlab.com/gitlab-org/gitlab-runner/helpers/cli"
	"gitlab.com/gitlab-org/gitlab-runner/log"
	"gitlab.com/gitlab-org/gitlab-runner/network"

	_ "gitlab.com/gitlab-org/gitlab-runner/shells" // registers bash and its kin
)

func main() {
	// The runner calls its own file for artifacts and the cache.
	self, err := os.Executable()
	if err != nil {
		logrus.WithError(err).Fatal("finding the path of this program")
	}
	providers := executors.NewProviderRegistry(map[string]common.ExecutorProvider{
		"shell": shell.NewProvider(self),
	})
	requests := network.NewAPIRequestsCollector()
	client := network.NewGitLabClient(
		network.WithAPIRequestsCollector(requests),
		network.WithCertificateDirectory(commands.GetDefaultCertificateDirectory()),
		network.WithExecutorProviderFunc(providers.GetByName),
	)

	app := cli.NewApp()
	app.Name = filepath.Base(os.Args[0])
	app.Usage = "GitLab Runner packages for tests, shell executor only"
	app.Version = common.AppVersion.ShortLine()
	cli.VersionPrinter = common.AppVersion.Printer
	app.Commands = []cli.Command{
		commands.NewRunSingleCommand(client, providers),
		commands.NewRunCommand(client, requests, providers),
		commands.NewRegisterCommand(client, providers),
		commands.NewUnregisterCommand(client),
		commands.NewVerifyCommand(client),
		commands.NewListCommand(),
		helpers.NewArtifactsDownloaderCommand(),
		helpers.NewArtifactsUploaderCommand(),
		helpers.NewCacheArchiverCommand(),
		helpers.NewCacheExtractorCommand(),
	}
	app.CommandNotFound = func(_ *cli.Context, name string) {
		logrus.Fatalf("command %q is not part of this test build", name)
	}
	clihelpers.InitCli()
	clihelpers.FixHOME(app)
	log.ConfigureLogging(app)
	if err := app.Run(os.Args); err != nil {
		logrus.Fatal(err)
	}
}

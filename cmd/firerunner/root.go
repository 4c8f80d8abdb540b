package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

// commands returns the subcommands, in the order of a first day with FireRunner.
func commands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		newDemoCommand,
		newDoctorCommand,
		newImageCommand,
		newServeCommand,
		newDrainCommand,
		newAcceptCommand,
		newHostsCommand,
		newControllersCommand,
		newHooksCommand,
		newReapCommand,
		newDBCommand,
		newConfigCommand,
		newVersionCommand,
		newShimCommand,
	}
}

// app is what every subcommand shares: the run, and the flags of the root command.
type app struct {
	Main
	configFile string
	settings   []string // key=value
	json       bool
	verbose    bool
	began      bool // flags and arguments were right
}

const rootLong = `FireRunner gives every GitLab CI job a microVM of its own: made for one job,
running the stock gitlab-runner, destroyed with everything in it.

A job asks for a size by tag, such as firecracker-2cpu-4gb.`

const rootExample = `  firerunner config validate           # every problem of the configuration at once
  firerunner image build --gitlab-runner PATH
  firerunner doctor                    # is everything there? what to do if not
  firerunner serve`

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "firerunner",
		Short:         "A microVM for every GitLab CI job",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.configFile, "config", "c", "", "configuration file (default $FIRERUNNER_CONFIG, else "+defaultConfigFile+")")
	flags.StringArrayVar(&a.settings, "set", nil, "override one key of the configuration, `key=value`; may be repeated")
	flags.BoolVar(&a.json, "json", false, "results and errors as JSON")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log more to standard error")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return firerunner.Errorf(firerunner.Invalid, "%w", err).WithHint("%s --help", cmd.CommandPath())
	})
	root.SetArgs(append([]string{}, a.Args...)) // never nil: cobra would take the test binary's own
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	for _, command := range commands() {
		root.AddCommand(command(a))
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	explainArguments(root)
	a.noteBegin(root)
	return root
}

// noteBegin tells an error about the command line, which is the user's, from one of a command's own work: cobra has
// the same type for both.
func (a *app) noteBegin(command *cobra.Command) {
	if do := command.RunE; do != nil {
		command.RunE = func(command *cobra.Command, args []string) error {
			a.began = true
			return do(command, args)
		}
	}
	for _, c := range command.Commands() {
		a.noteBegin(c)
	}
}

// run runs the command and prints its error.
func (a *app) run(ctx context.Context) int {
	command, err := a.newRoot().ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var known *firerunner.Error
	if !a.began {
		a.json = a.json || slices.Contains(a.Args, "--json") // perhaps it was not read that far
	}
	if !a.began && !errors.As(err, &known) { // cobra's words about the command line
		message, _, _ := strings.Cut(err.Error(), "\n")
		err = firerunner.Errorf(firerunner.Invalid, "%s", message).WithHint("%s --help", command.CommandPath())
	}
	a.printError(err)
	return firerunner.ExitStatus(err)
}

// silentError ends a command with a status of its own when all that there is to say has been printed.
type silentError struct{ cause error }

func (s silentError) Error() string { return s.cause.Error() }
func (s silentError) Unwrap() error { return s.cause }

// printError says what is wrong and what to do.
func (a *app) printError(err error) {
	if errors.As(err, new(silentError)) {
		return
	}
	problems := problemsOf(err)
	if a.json {
		message := err.Error()
		if problems != nil { // they stand below, one by one
			message, _, _ = strings.Cut(message, ":\n")
		}
		report := struct {
			Code     firerunner.Code `json:"code"`
			Message  string          `json:"message"`
			Hint     string          `json:"hint,omitempty"`
			Problems config.Problems `json:"problems,omitempty"`
		}{firerunner.CodeOf(err), message, firerunner.HintOf(err), problems}
		_ = json.NewEncoder(a.Stderr).Encode(map[string]any{"error": report})
		return
	}
	fmt.Fprintf(a.Stderr, "firerunner: error: %s\n", err)
	if hint := firerunner.HintOf(err); hint != "" {
		fmt.Fprintf(a.Stderr, "firerunner: hint: %s\n", hint)
	}
}

// problemsOf returns what is wrong with the configuration, if that is what an error is about.
func problemsOf(err error) config.Problems {
	var problems config.Problems
	errors.As(err, &problems)
	return problems
}

// print writes a result: value as JSON if that was asked for, else what text writes.
func (a *app) print(value any, text func(w io.Writer) error) error {
	var err error
	if a.json {
		encoder := json.NewEncoder(a.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(value)
	} else {
		err = text(a.Stdout)
	}
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "writing the result: %w", err)
	}
	return nil
}

// load reads the configuration for a command; withoutGitLab for those that do not ask GitLab, so that they work
// before there is a token. The Config is never nil.
func (a *app) load(withoutGitLab bool) (*config.Config, error) {
	return config.Load(config.Sources{
		File:          a.file(),
		Environ:       a.Environ,
		Flags:         a.settings,
		Machine:       config.ThisMachine(a.Environ),
		WithoutGitLab: withoutGitLab,
	})
}

const defaultConfigFile = "/etc/firerunner/config.yaml"

// file is the configuration file: the flag's, the environment's, the user's, or the machine's. Empty: there is
// none, and the environment must do. The folder that we happen to be in is not looked at: it may be a stranger's.
func (a *app) file() string {
	if a.configFile != "" {
		return a.configFile
	}
	if named := a.env("FIRERUNNER_CONFIG"); named != "" {
		return named
	}
	folder := a.env("XDG_CONFIG_HOME")
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(a.env("HOME"), ".config")
	}
	for _, path := range []string{filepath.Join(folder, "firerunner", "config.yaml"), defaultConfigFile} {
		if _, err := os.Stat(path); filepath.IsAbs(path) && err == nil {
			return path
		}
	}
	return ""
}

// env returns a variable of this run.
func (a *app) env(name string) string {
	for i := len(a.Environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(a.Environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}

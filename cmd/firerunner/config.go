package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner/internal/config"
)

func newConfigCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Check and explain the configuration",
		Long: `The configuration is one YAML file. Every key can also be set by the environment
(gitlab.url by FIRERUNNER_GITLAB_URL) and by --set; these win over the file, and
--set wins over the environment. Every secret can stand in a file of its own:
gitlab.token_file in place of gitlab.token.

config.example.yaml explains each key and has its default.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newConfigValidateCommand(a), newConfigShowCommand(a))
	return command
}

func newConfigValidateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Report everything that is wrong with the configuration",
		Long: `Reads the configuration as "firerunner serve" does, the secrets' files included,
and reports every problem at once, each with its file and line. Exit status 2 if
there is any. Nothing is changed and nobody is asked.`,
		Example: `  firerunner config validate --config config.yaml
  firerunner config validate --json 2>&1 | jq .error.problems`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load(false)
			if err != nil {
				return err
			}
			result := struct {
				OK       bool            `json:"ok"`
				File     string          `json:"file,omitempty"`
				Warnings config.Problems `json:"warnings,omitempty"`
			}{true, a.file(), c.Warnings()}
			return a.print(result, func(w io.Writer) error {
				name := result.File
				if name == "" {
					name = "no file; environment and flags"
				}
				for _, warning := range result.Warnings {
					fmt.Fprintf(a.Stderr, "firerunner: warning: %s\n", warning)
				}
				_, err := fmt.Fprintf(w, "configuration ok: %s\n", name)
				return err
			})
		},
	}
}

func newConfigShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print every key with its value and where the value comes from",
		Long: `Prints every key with the value in force and its source: the file's line, the
environment, a flag, the machine, or the default. Secrets are not shown.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load(true)
			if err != nil {
				return err
			}
			settings := c.Settings()
			return a.print(settings, func(w io.Writer) error {
				for _, s := range settings {
					if _, err := fmt.Fprintf(w, "%-32s %-40s # %s\n", s.Key, s.Value, s.Source); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
)

// explainArguments has a command, and those below it, say in words what is wrong with their arguments, with the command that
// was perhaps meant. Cobra has numbers for the first, and takes a word that it does not know after "help" and "completion"
// for a wish for help, with status 0: a script would not notice.
func explainArguments(command *cobra.Command) {
	group := command.HasAvailableSubCommands()
	if group && !command.Runnable() { // only what runs has its arguments looked at
		command.RunE = func(command *cobra.Command, _ []string) error { return command.Help() }
	}
	check := command.Args
	switch {
	case group:
		command.Args = func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(command, args[0])
		}
	case command.Name() == "help":
		command.Args = func(help *cobra.Command, args []string) error {
			found, rest, err := help.Root().Find(args)
			if err != nil || len(rest) == 0 {
				return err
			}
			return unknownCommand(found, rest[0])
		}
	case check != nil:
		command.Args = func(command *cobra.Command, args []string) error {
			err := check(command, args)
			if err == nil || errors.As(err, new(*firerunner.Error)) { // the command has words of its own
				return err
			}
			return wrongArguments(command, args)
		}
	}
	for _, c := range command.Commands() {
		explainArguments(c)
	}
}

// unknownCommand says that there is no such command in a group, and which is nearest.
func unknownCommand(group *cobra.Command, word string) error {
	err := firerunner.Errorf(firerunner.Invalid, "unknown command %q for %q", word, group.CommandPath())
	group.SuggestionsMinimumDistance = min(2, len(word)/2) // of a short word nearly everything is near
	if near := group.SuggestionsFor(word); len(near) > 0 {
		return err.WithHint("did you mean %q?", group.CommandPath()+" "+near[0])
	}
	return err.WithHint("%s --help", group.CommandPath())
}

// wrongArguments says what a command takes, in the words of its usage.
func wrongArguments(command *cobra.Command, args []string) error {
	_, takes, _ := strings.Cut(command.Use, " ")
	var err *firerunner.Error
	switch {
	case len(args) == 0:
		err = firerunner.Errorf(firerunner.Invalid, "%q needs an argument: %s", command.CommandPath(), takes)
	case takes == "":
		err = firerunner.Errorf(firerunner.Invalid, "%q takes no argument, and there is %q", command.CommandPath(), args[0])
	default:
		err = firerunner.Errorf(firerunner.Invalid, "%q takes %s and no more, and there is %q too", command.CommandPath(), takes, args[len(args)-1])
	}
	return err.WithHint("%s --help", command.CommandPath())
}

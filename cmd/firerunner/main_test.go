package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScripts runs each script of testdata/script against the whole program, in this process:
//
//	firerunner ARGS...   fails unless the exit status is 0; with !, unless it is another
//	status N             fails unless the last exit status was N
//	fleet                makes a database with hosts a, which carries a runner, and b; "fleet empty" ends the runner
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			// A home of its own: no file of this machine's user has a say.
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("FIRERUNNER_STATE_DIR", env.WorkDir+"/state")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"firerunner": firerunnerCommand,
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := ts.Getenv("last_status"); len(args) != 1 || got != args[0] {
					ts.Fatalf("exit status %s, want %v", got, args)
				}
			},
			"fleet": fleetCommand,
			// mode PERMISSIONS FILE changes a file's mode.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				mode, err := strconv.ParseUint(args[0], 8, 32)
				ts.Check(err)
				ts.Check(os.Chmod(ts.MkAbs(args[1]), os.FileMode(mode)))
			},
		},
	})
}

func firerunnerCommand(ts *testscript.TestScript, neg bool, args []string) {
	var environ []string
	for _, name := range []string{"HOME", "PATH", "FIRERUNNER_CONFIG"} {
		environ = append(environ, name+"="+ts.Getenv(name))
	}
	for _, name := range []string{
		"FIRERUNNER_STATE_DIR", "FIRERUNNER_GITLAB_TOKEN", "FIRERUNNER_GITLAB_TOKEN_FILE", "FIRERUNNER_GITLAB_TOKN",
		"FIRERUNNER_GITLAB_URL", "FIRERUNNER_LOG_LEVEL", "FIRERUNNER_IMAGE_DIR", "FIRERUNNER_GITLAB_WEBHOOK_SECRET", "FIRERUNNER_DATABASE",
	} {
		if value := ts.Getenv(name); value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	status := Main{
		Args: args, Environ: environ, Stdin: strings.NewReader(""), Stdout: ts.Stdout(), Stderr: ts.Stderr(),
	}.Run(context.Background())
	ts.Setenv("last_status", strconv.Itoa(status))
	if neg == (status == 0) {
		ts.Fatalf("exit status %d", status)
	}
}

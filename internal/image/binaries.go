package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

const maxRunner = 1 << 30 // bytes of a gitlab-runner; it has less than 100 MB

// binaries finds the agent and gitlab-runner, and notes in the manifest what they are. It copies both, so that
// what is noted is what goes into the image, whoever replaces the files meanwhile.
func (r *run) binaries(ctx context.Context, m *Manifest) (agent, runner string, err error) {
	agent, runner = filepath.Join(r.dir, "fireguest"), filepath.Join(r.dir, "gitlab-runner")
	err = r.step("agent", func() (string, error) {
		if err := copyProgram(agent, r.recipe.AgentPath); err != nil {
			return "", firerunner.Errorf(firerunner.Invalid, "read the guest agent: %w", err).
				WithHint("fireguest belongs beside firerunner; make builds both")
		}
		if err := checkProgram("the guest agent", agent, true); err != nil {
			return "", err
		}
		m.AgentSHA256, m.AgentVersion, err = r.identify(ctx, agent, agentVersions)
		return m.AgentVersion, err
	})
	if err != nil {
		return "", "", err
	}
	err = r.step("gitlab-runner", func() (string, error) {
		if r.recipe.RunnerPath == "" {
			if err := r.download(ctx, runner); err != nil {
				return "", err
			}
		} else if err := copyProgram(runner, r.recipe.RunnerPath); err != nil {
			return "", firerunner.Errorf(firerunner.Invalid, "read gitlab-runner: %w", err)
		}
		if err := checkProgram("gitlab-runner", runner, false); err != nil {
			return "", err
		}
		m.RunnerSHA256, m.RunnerVersion, err = r.identify(ctx, runner, runnerVersions)
		if err == nil && r.recipe.RunnerSHA256 != "" && m.RunnerSHA256 != r.recipe.RunnerSHA256 {
			err = wrongRunner(m.RunnerSHA256, r.recipe.RunnerSHA256)
		}
		return m.RunnerVersion, err
	})
	return agent, runner, err
}

func wrongRunner(is, want string) error {
	return firerunner.Errorf(firerunner.Invalid, "check gitlab-runner: its SHA-256 is %s, not %s", is, want)
}

// What the programs say to --version: "fireguest 1.2.3", and gitlab-runner's "Version:      19.4.0".
var (
	agentVersions  = regexp.MustCompile(`^fireguest (\S{1,64})\n`)
	runnerVersions = regexp.MustCompile(`(?m)^Version:\s+(\S.{0,63}?)\s*$`)
)

// identify returns a program's SHA-256 and what it says its version is.
func (r *run) identify(ctx context.Context, path string, version *regexp.Regexp) (sum, said string, err error) {
	if sum, err = fileSHA256(path); err != nil {
		return "", "", firerunner.Errorf(firerunner.Unavailable, "read %s: %w", filepath.Base(path), err)
	}
	asking, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := r.Exec(asking, Command{Args: []string{path, "--version"}, Stdout: &out}); err != nil {
		return "", "", err
	}
	found := version.FindStringSubmatch(out.String())
	if found == nil {
		return "", "", firerunner.Errorf(firerunner.Invalid, "ask %s for its version: the answer is not understood", filepath.Base(path)).
			WithHint("it must be a program for this machine's architecture, and the one that its name says")
	}
	return sum, found[1], nil
}

// copyProgram copies a program and makes it executable.
func copyProgram(to, from string) error {
	if from == "" {
		return errors.New("no path is given")
	}
	if err := copyFile(to, from); err != nil {
		return err
	}
	return os.Chmod(to, 0o755)
}

// download fetches gitlab-runner, keeps it by its SHA-256, and trusts it for nothing else.
func (r *run) download(ctx context.Context, to string) error {
	kept := filepath.Join(r.Store.Dir, "downloads", "gitlab-runner-"+r.recipe.RunnerSHA256)
	if sum, err := fileSHA256(kept); err == nil && sum == r.recipe.RunnerSHA256 {
		return copyProgram(to, kept)
	}
	fail := func(err error) error {
		return firerunner.Errorf(firerunner.Unavailable, "download gitlab-runner: %w", err)
	}
	if !strings.HasPrefix(r.recipe.RunnerURL, "https://") && !strings.HasPrefix(r.recipe.RunnerURL, "http://") {
		return firerunner.Errorf(firerunner.Invalid, "download gitlab-runner: its URL is not a web address")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.recipe.RunnerURL, nil)
	if err != nil {
		return fail(errors.New("its URL is not a URL")) // the cause would repeat what may hold a password
	}
	answer, err := r.HTTP.Do(request)
	if err != nil {
		return fail(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("the server says %s", answer.Status))
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fail(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(answer.Body, maxRunner+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	if n > maxRunner {
		return fail(errors.New("it is far too large"))
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != r.recipe.RunnerSHA256 {
		return wrongRunner(sum, r.recipe.RunnerSHA256)
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return fail(err)
	}
	// By way of a name of our own, so that another build never sees half of it.
	part := filepath.Join(r.dir, "download")
	if err := copyProgram(part, to); err != nil {
		return fail(err)
	}
	if err := os.Rename(part, kept); err != nil {
		return fail(err)
	}
	return nil
}

package gitlabtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// gitCommand runs git apart from the user's own configuration.
func gitCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
	}
	cmd.WaitDelay = time.Second
	return cmd
}

func runGit(ctx context.Context, dir string, stdin []byte, args ...string) (string, error) {
	cmd := gitCommand(ctx, dir, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(problem.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func initRepository(ctx context.Context, dir, branch string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	_, err := runGit(ctx, dir, nil, "init", "--quiet", "--bare", "--initial-branch="+branch, ".")
	return err
}

// commit is what pipelines and hooks tell of a commit.
type commit struct {
	sha, parent, message string
	at                   time.Time
}

const (
	zeroSHA     = "0000000000000000000000000000000000000000"
	authorName  = userFullName
	authorEmail = userEmail
)

// commitFiles adds or replaces files on top of a branch in one commit, made by one git process.
func commitFiles(ctx context.Context, dir, branch, message string, files map[string]string, at time.Time) (commit, error) {
	parent, err := headOf(ctx, dir, branch)
	if err != nil {
		return commit{}, err
	}
	ref := "refs/heads/" + branch
	who := fmt.Sprintf("%s <%s> %d +0000", authorName, authorEmail, at.Unix())
	var in bytes.Buffer
	fmt.Fprintf(&in, "commit %s\nauthor %s\ncommitter %s\ndata %d\n%s\n", ref, who, who, len(message), message)
	if parent.sha != zeroSHA {
		fmt.Fprintf(&in, "from %s\n", parent.sha)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if clean := path.Clean(name); clean != name || path.IsAbs(name) || strings.HasPrefix(name, "..") || strings.ContainsAny(name, "\"\n") {
			return commit{}, fmt.Errorf("committing: %q is not a clean relative path", name)
		}
		mode := "100644"
		if strings.HasPrefix(files[name], "#!") {
			mode = "100755"
		}
		fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(files[name]), files[name])
	}
	if _, err := runGit(ctx, dir, in.Bytes(), "fast-import", "--quiet", "--force"); err != nil {
		return commit{}, fmt.Errorf("committing to %s: %w", branch, err)
	}
	return headOf(ctx, dir, branch)
}

// headOf reads the newest commit of a branch; one that does not exist has the zero SHA.
func headOf(ctx context.Context, dir, branch string) (commit, error) {
	out, err := runGit(ctx, dir, nil, "for-each-ref", "--count=1",
		"--format=%(objectname)%0a%(parent)%0a%(committerdate:unix)%0a%(contents)", "refs/heads/"+branch)
	if err != nil {
		return commit{}, fmt.Errorf("reading branch %s: %w", branch, err)
	}
	if out == "" {
		return commit{sha: zeroSHA, parent: zeroSHA}, nil
	}
	fields := strings.SplitN(out, "\n", 4)
	if len(fields) < 3 {
		return commit{}, fmt.Errorf("reading branch %s: unexpected %q", branch, out)
	}
	c := commit{sha: fields[0], parent: fields[1]}
	if c.parent == "" {
		c.parent = zeroSHA
	}
	var unix int64
	if _, err := fmt.Sscan(fields[2], &unix); err != nil {
		return commit{}, fmt.Errorf("reading branch %s: %w", branch, err)
	}
	c.at = time.Unix(unix, 0).UTC()
	if len(fields) == 4 {
		c.message = strings.TrimRight(fields[3], "\n")
	}
	return c, nil
}

// readFile reads one file of a commit; an absent one is not found.
func readFile(ctx context.Context, dir, sha, name string) (content string, found bool, err error) {
	listed, err := runGit(ctx, dir, nil, "ls-tree", "--name-only", sha, name)
	if err != nil || listed == "" {
		return "", false, err
	}
	content, err = runGit(ctx, dir, nil, "cat-file", "blob", sha+":"+name)
	return content, err == nil, err
}

// keepRef makes refs/pipelines/<id>, the ref that a job fetches even after its branch moved on.
func keepRef(ctx context.Context, dir, ref, sha string) error {
	_, err := runGit(ctx, dir, nil, "update-ref", ref, sha)
	return err
}

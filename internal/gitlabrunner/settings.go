package gitlabrunner

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/firerunner/firerunner"
)

// Where things are in every guest, whoever put them there. What is below RunDir is gone after a boot.
const (
	RunDir       = "/run/firerunner"
	PrivateDir   = RunDir + "/private" // the job user's, 0700; the settings with the token, while they are needed
	SettingsFile = PrivateDir + "/config.toml"
	CAFile       = RunDir + "/ca.pem"
	NoticePipe   = RunDir + "/notice" // lines that jobs' shells write for the timeline; may be missing
	BuildsDir    = "/builds"
	CacheDir     = "/cache"
)

// imageNotice is run by gitlab-runner's shell before the job's script, and writes to the job's own log. Jobs here
// run on the microVM's own system; a job that asks for a container image is told so, and the host is told too,
// instead of the job failing in ways that nobody can explain. gitlab-runner sets CI_JOB_IMAGE when a job has an
// image (https://gitlab.com/gitlab-org/gitlab-runner/-/blob/main/common/build.go). It is a pre_build_script, not
// a pre_get_sources_script, because the latter is left out where GIT_STRATEGY is none. Of a script of several
// lines the log shows the first, so that is one for people to read.
const imageNotice = `: FireRunner gives this job a microVM of its own
if [ -n "${CI_JOB_IMAGE:-}" ]; then
  printf 'FireRunner: the image "%s" that this job asks for is not used: the job runs directly on the system of its microVM.\n' "$CI_JOB_IMAGE"
  if [ -p ` + NoticePipe + ` ]; then printf 'image not used: %s\n' "$CI_JOB_IMAGE" > ` + NoticePipe + ` || :; fi
fi
`

// Settings is gitlab-runner's config.toml for the one runner of a microVM. It holds the token.
// https://docs.gitlab.com/runner/configuration/advanced-configuration/
func Settings(start firerunner.GuestStart) (string, error) { return settings(start, "", "") }

// RelayedSettings are Settings of a gitlab-runner that reaches GitLab at another URL, in plain HTTP. git and the job still
// go to GitLab itself. A gitlab-runner that sees GitLab's certificates tells the job of their CA in a variable; here that
// names caFile, unless it is empty.
func RelayedSettings(start firerunner.GuestStart, relay, caFile string) (string, error) {
	return settings(start, relay, caFile)
}

func settings(start firerunner.GuestStart, relay, caFile string) (string, error) {
	at, err := url.Parse(start.GitLabURL)
	if err != nil || (at.Scheme != "http" && at.Scheme != "https") || at.Host == "" {
		return "", firerunner.Errorf(firerunner.Invalid, "the URL of GitLab is not a URL: %q", start.GitLabURL)
	}
	if start.Token == "" || start.Name == "" {
		return "", firerunner.Errorf(firerunner.Invalid, "the start has no token or no name")
	}
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "  %s = %s\n", key, tomlString(value)) }
	b.WriteString("concurrent = 1\ncheck_interval = 3\n\n[[runners]]\n")
	line("name", start.Name)
	if relay == "" {
		line("url", start.GitLabURL)
	} else {
		line("url", relay)
		line("clone_url", start.GitLabURL) // without it, URLs of submodules would be given the token for the relay's address
		if caFile != "" {
			fmt.Fprintf(&b, "  environment = [%s]\n", tomlString("CI_SERVER_TLS_CA_FILE="+caFile))
		}
	}
	line("token", start.Token.Reveal())
	line("executor", "shell")
	line("shell", "bash")
	line("builds_dir", BuildsDir)
	line("cache_dir", CacheDir)
	if start.CA != "" {
		line("tls-ca-file", CAFile)
	}
	if start.OutputKiB > 0 {
		fmt.Fprintf(&b, "  output_limit = %d\n", start.OutputKiB)
	}
	line("pre_build_script", imageNotice)
	return b.String(), nil
}

// tomlString is a TOML basic string: https://toml.io/en/v1.0.0#string.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case unicode.IsControl(r):
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Arguments is gitlab-runner's command line after its name. The token is in the settings file, never here.
func Arguments(start firerunner.GuestStart, settingsFile string) []string {
	args := []string{"--log-format", "json", "run-single", "-c", settingsFile, "-r", start.Name, "--max-builds", "1"}
	if start.WaitTimeout > 0 {
		args = append(args, "--wait-timeout", fmt.Sprint(int(start.WaitTimeout.Seconds())))
	}
	return args
}

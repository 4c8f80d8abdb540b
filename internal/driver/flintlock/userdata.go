package flintlock

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/firerunner/firerunner"
)

// Where the guest agent is in a cloud-init image.
const (
	agentPath = "/usr/local/bin/fireguest"
	agentUnit = "/etc/systemd/system/fireguest.service"
	startPath = "/usr/local/lib/firerunner/start"
)

// userData is what cloud-init does in an image that is not ours: it fetches what is to be installed, each file checked
// by its SHA-256, and starts the agent as a service. Our own images have no cloud-init and never read it. There is no
// secret in it: the agent reads its own metadata. https://docs.cloud-init.io/en/latest/reference/modules.html
func userData(install []Download) string {
	var b strings.Builder
	b.WriteString(`#cloud-config
write_files:
  - path: ` + agentUnit + `
    permissions: '0644'
    content: |
      [Unit]
      Description=FireRunner's guest agent
      Wants=network-online.target
      After=network-online.target
      [Service]
      Type=exec
      ExecStart=` + agentPath + ` --service
      FailureAction=reboot-force
      Restart=no
      OOMScoreAdjust=-900
  - path: ` + startPath + `
    permissions: '0755'
    content: |
      #!/bin/sh
      set -eu
      fetch() {
        [ -x "$1" ] && echo "$3  $1" | sha256sum -c --status && return
        mkdir -p "$(dirname "$1")"
        for n in 1 2 3 4 5; do
          if command -v curl >/dev/null; then
            curl -fsSLk --retry 3 -o "$1.new" "$2" && break
          else
            wget -q --no-check-certificate -O "$1.new" "$2" && break
          fi
          sleep 2
        done
        echo "$3  $1.new" | sha256sum -c --status || { echo "firerunner: $1 is not what it should be" >&2; exit 1; }
        chmod 0755 "$1.new"
        mv "$1.new" "$1"
      }
`)
	for _, f := range install {
		fmt.Fprintf(&b, "      fetch '%s' '%s' '%s'\n", f.Path, f.URL, f.SHA256)
	}
	b.WriteString(`      systemctl daemon-reload
      systemctl start --no-block fireguest.service
runcmd:
  - [sh, -c, '` + startPath + ` || { echo "firerunner: the guest agent cannot be started" >/dev/console; poweroff -f; }']
`)
	return b.String()
}

var sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses what could not be written into a script as it is.
func (f Download) check() error {
	u, err := url.Parse(f.URL)
	odd := func(s string) bool {
		return len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`'"\$`+"`", r) })
	}
	switch {
	case !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || odd(f.Path):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: %.80q is no absolute path in a guest", f.Path)
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || odd(f.URL):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: %s cannot be fetched: its URL is not plain http or https", f.Path)
	case !sumForm.MatchString(f.SHA256):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: %s has no SHA-256 of 64 hexadecimal digits", f.Path).
			WithHint("print it with sha256sum")
	}
	return nil
}

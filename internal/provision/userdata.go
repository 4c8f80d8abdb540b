package provision

import (
	"fmt"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// userData is what cloud-init does in a guest before its sshd starts: it writes the host key, lets us in, and sets the
// time at which the microVM ends, whoever else is dead. It holds the private host key. What cloud-init would do after
// that is left out: the microVM is for one job, and nobody waits for it.
// https://docs.cloud-init.io/en/latest/reference/modules.html
func userData(keys Keys, user string, life time.Duration) firerunner.Secret {
	var b strings.Builder
	b.WriteString("#cloud-config\n")
	// Renewed, not added to: what is not here does not run.
	b.WriteString("cloud_init_modules: [bootcmd, growpart, resizefs, set_hostname, users-groups, ssh]\ncloud_config_modules: []\ncloud_final_modules: []\n")
	seconds := max(int(life.Seconds()), 1)
	fmt.Fprintf(&b, `bootcmd:
  - [sh, -c, 'systemd-run --quiet --on-active=%[1]d --unit=firerunner-deadline systemctl reboot --force --force || { sleep %[1]d; reboot -f; } >/dev/null 2>&1 </dev/null &']
`, seconds)
	b.WriteString("ssh_pwauth: false\nssh:\n  emit_keys_to_console: false\n")
	authorized := strings.TrimSpace(keys.Authorized)
	if user == "root" {
		fmt.Fprintf(&b, "disable_root: false\nusers: []\nssh_authorized_keys: [%q]\n", authorized)
	} else {
		fmt.Fprintf(&b, "disable_root: true\nusers:\n  - {name: %s, shell: /bin/sh, sudo: ['ALL=(ALL) NOPASSWD:ALL'], ssh_authorized_keys: [%q]}\n", user, authorized)
	}
	if keys.HostSecret == "" { // the image brings its own
		b.WriteString("ssh_deletekeys: false\nssh_genkeytypes: []\n")
		return firerunner.Secret(b.String())
	}
	b.WriteString("ssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n")
	for line := range strings.Lines(keys.HostSecret.Reveal()) {
		b.WriteString("    " + line)
	}
	fmt.Fprintf(&b, "  ed25519_public: %q\n", keys.HostPublic)
	return firerunner.Secret(b.String())
}

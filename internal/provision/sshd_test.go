package provision

import (
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// machine is a guest: a real SSH server whose commands run in a real shell of this machine. What would touch this
// machine itself leads into a folder, and the few programs that need root are replaced.
type machine struct {
	t        *testing.T
	dir      string
	keys     Keys
	listener net.Listener
	served   sync.WaitGroup

	mu       sync.Mutex
	conns    []net.Conn
	commands []string
	deny     int // logins to refuse before one is let in
}

// stubs stand for what needs root, or would end this machine.
var stubs = map[string]string{
	"id":        `if [ "$1" = -u ] && [ $# = 1 ]; then cat "$BASE/uid"; else exit 1; fi`,
	"useradd":   `mkdir -p "$BASE/home/ci"; echo "$@" > "$BASE/useradd"`,
	"install":   `for last; do :; done; mkdir -p $(echo "$@" | tr ' ' '\n' | grep ^/)`,
	"chown":     `echo "$@" >> "$BASE/chown"`,
	"setpriv":   `while [ "$1" != -- ]; do shift; done; shift; exec "$@"`,
	"sudo":      `[ "$1" = -n ] || exit 2; shift; [ -e "$BASE/no-sudo" ] && { echo "sudo: a password is required" >&2; exit 1; }; exec "$@"`,
	"reboot":    `[ "$1" = -f ] && touch "$BASE/off"`,
	"ip":        `echo "$@" >> "$BASE/ip"; [ "$2" != get ]`,
	"systemctl": `exit 1`,
	"uname":     `if [ "$1" = -m ]; then cat "$BASE/machine"; else exec /bin/uname "$@"; fi`,
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	keys, err := NewKeys(rand.Reader)
	require.NoError(t, err)
	m := &machine{t: t, dir: t.TempDir(), keys: keys}
	for _, dir := range []string{"bin", "run", "program", "home/ci"} {
		require.NoError(t, os.MkdirAll(filepath.Join(m.dir, dir), 0o755))
	}
	for name, script := range stubs {
		require.NoError(t, os.WriteFile(filepath.Join(m.dir, "bin", name), []byte("#!/bin/sh\nBASE="+m.dir+"\n"+script+"\n"), 0o755))
	}
	m.write("uid", "0\n")
	m.write("machine", "x86_64\n")
	m.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.served.Go(m.serve)
	t.Cleanup(func() {
		_ = m.listener.Close()
		m.cut()
		m.served.Wait()
	})
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	require.NoError(m.t, os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755))
}

func (m *machine) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(m.dir, name))
	return string(text)
}

// cut breaks every connection.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		_ = c.Close()
	}
	m.conns = nil
}

// restart has the server show another host key and let another one in, at the same address.
func (m *machine) restart(hostSecret firerunner.Secret, authorized string) {
	m.t.Helper()
	at := m.listener.Addr().String()
	require.NoError(m.t, m.listener.Close())
	m.cut()
	m.served.Wait()
	m.keys.HostSecret, m.keys.Authorized = hostSecret, authorized
	var err error
	m.listener, err = net.Listen("tcp", at)
	require.NoError(m.t, err)
	m.served.Go(m.serve)
}

func (m *machine) serve() {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.deny > 0 {
			m.deny--
			return nil, io.EOF
		}
		if strings.TrimSpace(m.keys.Authorized) != strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	signer, err := ssh.ParsePrivateKey([]byte(m.keys.HostSecret.Reveal()))
	if err != nil {
		panic(err)
	}
	config.AddHostKey(signer)
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return
		}
		m.mu.Lock()
		m.conns = append(m.conns, conn)
		m.mu.Unlock()
		m.served.Go(func() { m.connection(conn, config) })
	}
}

func (m *machine) connection(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	m.served.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		m.served.Go(func() { m.session(channel, requests) })
	}
}

func (m *machine) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		var asked struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &asked) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		m.mu.Lock()
		m.commands = append(m.commands, asked.Command)
		m.mu.Unlock()
		// What must never be this machine's own is named in full: a command may outlive the test and its folder.
		command := strings.NewReplacer("systemctl reboot", m.dir+"/bin/systemctl reboot", "reboot -f", m.dir+"/bin/reboot -f", "ip route", m.dir+"/bin/ip route", "ip link", m.dir+"/bin/ip link",
			"/run/systemd", m.dir+"/systemd", "/sys/class/net", m.dir+"/net", "/etc/resolv.conf", m.dir+"/resolv.conf", "/run/firerunner", m.dir+"/run", "/usr/local/bin/gitlab-runner", m.dir+"/program/gitlab-runner",
			"/home/ci", m.dir+"/home/ci", " /builds /cache", "").Replace(asked.Command)
		shell := exec.Command("/bin/sh", "-c", command)
		shell.Env = []string{"PATH=" + m.dir + "/bin:/usr/bin:/bin"}
		shell.Stdout, shell.Stderr = channel, channel.Stderr()
		shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		stdin, err := shell.StdinPipe()
		if err == nil {
			err = shell.Start()
		}
		if err != nil {
			return
		}
		m.served.Go(func() { _, _ = io.Copy(stdin, channel); _ = stdin.Close() })
		// As sshd does, a command whose connection ended loses its terminal, not its life: a tail would stay.
		gone := make(chan struct{})
		m.served.Go(func() {
			for range requests {
			}
			close(gone)
		})
		done := make(chan error, 1)
		m.served.Go(func() { done <- shell.Wait() })
		select {
		case <-done:
		case <-gone:
			_ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL)
			<-done
		}
		status := struct{ Status uint32 }{uint32(shell.ProcessState.ExitCode())}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

package firerunner

import (
	"context"
	"net"
	"time"
)

// Provisioning is who brings gitlab-runner into a microVM and watches it there.
type Provisioning string

// The ways.
const (
	ProvisionAgent Provisioning = "agent" // the guest agent of the image, from inside
	ProvisionSSH   Provisioning = "ssh"   // FireRunner itself, from outside: for images that have no agent
)

// SSHAccess is how FireRunner gets into microVMs whose image has no agent, and what it installs there. It holds no
// secret.
type SSHAccess struct {
	User string // who logs in: root, or one who may sudo without a password
	Port int    // sshd's
	// HostKeys are public keys, each its type and its base64 as in known_hosts, of which the guest must show one. None:
	// a key is made for each microVM and given to it by its metadata.
	HostKeys []string

	// Where gitlab-runner comes from: a file on this machine or an address that the guest downloads, one of the two,
	// and in both cases the SHA-256 of it in 64 hexadecimal digits.
	RunnerPath   string
	RunnerURL    string
	RunnerSHA256 string

	ConnectTimeout time.Duration // until sshd lets us in; 0 = the default
	StepTimeout    time.Duration // of each step of the installation; 0 = the default
	UploadTimeout  time.Duration // of the one that brings gitlab-runner into the guest; 0 = the default
}

// Outside stands in for the guest agent of one microVM whose image has none. Its keys are made for that microVM and are
// nowhere but in memory.
type Outside struct {
	// UserData is the microVM's user-data for cloud-init. It holds the guest's private host key, so it belongs into the
	// microVM's metadata and nowhere else.
	UserData Secret
	// Run installs gitlab-runner, starts it and reports what it does, as an agent would report it, until it has ended,
	// ctx has, or it is certain that nothing will come of it. It is called once.
	Run func(ctx context.Context, way OutsideWay) error
}

// OutsideWay is how an Outside reaches its microVM.
type OutsideWay struct {
	Dial   func(ctx context.Context, port int) (net.Conn, error) // connects to a port of the guest
	Start  GuestStart
	Report func(GuestReport)    // called from one goroutine; Seq and At are left to the callee
	Orders <-chan GuestOrder    // nil or closed: there are none
	Shut   func() (closed bool) // ends the metadata service; false: it is beyond our reach, and the guest has to block it
}

// Package guest is the channel between a microVM and the host: newline-delimited JSON over anything that reads
// and writes bytes (a virtio-serial port, a vsock connection, a TLS stream). It holds both ends, so that there is
// one codec.
//
// Where the host has a device into the guest, Serve and Client are the ends, and the host speaks first: it sends a ping as soon as it is connected, and the guest answers with hello. So a guest
// that was restored from a snapshot, and waits on a port that it opened in another life, says hello again to the
// host it now has. The host answers hello with start, once in the life of a microVM: start carries the
// credential, and whoever says hello a second time (a guest that booted again, a job that got at the port) is
// told nothing. After that the guest reports, the host acknowledges what it has recorded, and passes orders.
//
// Where there is only a network, Endpoint and Caller are the ends, and the guest speaks first. Its first line is
// attach, with a token that is good once or with the session that it got for it; the answer is start, resume with
// the number of the last report that was recorded, or refused. The rest is the same, and a guest whose connection
// breaks calls again and sends what was not acknowledged. A guest that is refused for good turns itself off.
//
// Everything that a guest sends is an attack until proven otherwise: lines, texts and numbers are bounded, and
// what cannot be understood becomes a report that says so.
package guest

const (
	// version is the version of the protocol. Fields may be added within one version: unknown ones are ignored.
	version = 1
	// MaxGuestLine is the longest line, in bytes, that the host accepts from a guest.
	MaxGuestLine = 64 << 10
	// MaxHostLine is the longest line, in bytes, that a guest accepts from the host: a start may carry a bundle of
	// certificates.
	MaxHostLine = 1 << 20
	// MaxMessage is the longest text of a report in bytes; what is longer is cut.
	MaxMessage = 2 << 10
	// entropySize is how many fresh random bytes a start carries.
	entropySize = 64
	// MaxConsole is how many bytes of its console a guest sends in one message.
	MaxConsole = 8 << 10
	// Protocol is the name of the channel over a network, in the TLS handshake (ALPN, RFC 7301).
	Protocol = "firerunner-guest/1"

	maxID     = 64  // bytes of a microVM's name
	maxSecret = 256 // bytes of a token or a session
)

package guest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	// MetadataKey is where a guest finds its Metadata: http://169.254.169.254/latest/firerunner.
	MetadataKey = "firerunner"
	// MaxMetadata is the most that a guest reads of it, in bytes.
	MaxMetadata = 8 << 10
)

// Metadata is what a guest without a device to the host is told by its host's metadata service: who it is, and where
// to call. Any process in the guest can read it until the agent has closed the service, so all that is secret in it
// is good once.
type Metadata struct {
	ID          string
	Endpoint    string            // host:port of the guest endpoint
	Fingerprint [sha256.Size]byte // of its certificate
	// Others are the endpoints of other controllers, any of which may stand in for the one that made this microVM.
	Others []Door
	Token  firerunner.Secret // good for one attach
	// Network is the guest's fixed address, gateway and name server. An empty Address means DHCP.
	Network firerunner.GuestNetwork
	// Deadline is when the microVM ends itself, whoever else is dead, to the second. Zero: never.
	Deadline time.Time
	// Heartbeat is how often the guest is to give a sign of life, in whole seconds. Zero: as often as it likes.
	Heartbeat time.Duration
}

// Door is a guest endpoint: where it is, and how it is known.
type Door struct {
	Endpoint    string            // host:port
	Fingerprint [sha256.Size]byte // of its certificate
}

// maxHeartbeat is less than a host waits for a line of a guest: EndpointConfig.IdleTimeout.
const maxHeartbeat = 30 * time.Second

// maxDoors is how many endpoints a guest knows.
const maxDoors = 16

type doorWire struct {
	Endpoint    string `json:"endpoint"`
	Fingerprint string `json:"fingerprint"`
}

type metadataWire struct {
	V           int    `json:"v"`
	ID          string `json:"id"`
	Endpoint    string `json:"endpoint"`
	Fingerprint string `json:"fingerprint"`
	Token       string `json:"token"`
	Address     string `json:"address,omitempty"` // with prefix length
	Gateway     string `json:"gateway,omitempty"` // without, or with
	DNS         string `json:"dns,omitempty"`
	Deadline    int64  `json:"deadline,omitempty"`  // seconds since 1970
	Heartbeat   int64  `json:"heartbeat,omitempty"` // seconds

	Others []doorWire `json:"others,omitempty"`
}

// linkLocal is where metadata services are: nothing else of a guest may be there.
func linkLocal() netip.Prefix { return netip.MustParsePrefix("169.254.0.0/16") }

// DecodeMetadata reads it. Its errors never repeat what was in it.
func DecodeMetadata(text []byte) (Metadata, error) {
	var w metadataWire
	if len(text) > MaxMetadata || json.Unmarshal(text, &w) != nil {
		return Metadata{}, errors.New("metadata: not what it should be")
	}
	if w.V != version {
		return Metadata{}, fmt.Errorf("metadata: version %d, want %d", w.V, version)
	}
	if !name(w.ID) || w.Token == "" || !credential(w.Token) {
		return Metadata{}, errors.New("metadata: no name or no token")
	}
	first, err := doorWire{w.Endpoint, w.Fingerprint}.door()
	if err != nil {
		return Metadata{}, err
	}
	m := Metadata{ID: w.ID, Endpoint: first.Endpoint, Fingerprint: first.Fingerprint, Token: firerunner.Secret(w.Token)}
	if len(w.Others) >= maxDoors {
		return Metadata{}, errors.New("metadata: too many endpoints")
	}
	for _, other := range w.Others {
		d, err := other.door()
		if err != nil {
			return Metadata{}, err
		}
		m.Others = append(m.Others, d)
	}
	if w.Deadline < 0 || w.Deadline > math.MaxInt32*4 {
		return Metadata{}, errors.New("metadata: the deadline is out of range")
	}
	if w.Heartbeat < 0 || w.Heartbeat > int64(maxHeartbeat/time.Second) {
		return Metadata{}, errors.New("metadata: the heartbeat is out of range")
	}
	m.Heartbeat = time.Duration(w.Heartbeat) * time.Second
	if w.Deadline > 0 {
		m.Deadline = time.Unix(w.Deadline, 0)
	}
	m.Network, err = w.network()
	return m, err
}

// door checks an endpoint.
func (w doorWire) door() (d Door, err error) {
	host, port, err := net.SplitHostPort(w.Endpoint)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" || !word(host, 255) {
		return d, errors.New("metadata: the endpoint is not host:port")
	}
	d.Endpoint = w.Endpoint
	if d.Fingerprint, err = ParseFingerprint(w.Fingerprint); err != nil {
		return d, fmt.Errorf("metadata: %w", err)
	}
	return d, nil
}

// network checks the addresses; a gateway may have the prefix length that Flintlock wants of it.
func (w metadataWire) network() (firerunner.GuestNetwork, error) {
	var n firerunner.GuestNetwork
	if w.Address != "" {
		address, err := netip.ParsePrefix(w.Address)
		if err != nil || address.Addr().Zone() != "" || linkLocal().Contains(address.Addr()) {
			return n, errors.New("metadata: the address is not an address with a prefix length, or link-local")
		}
		n.Address = address.String()
	}
	if w.Gateway != "" {
		gateway, err := netip.ParseAddr(w.Gateway)
		if prefix, prefixErr := netip.ParsePrefix(w.Gateway); prefixErr == nil {
			gateway, err = prefix.Addr(), nil
		}
		if err != nil || gateway.Zone() != "" || linkLocal().Contains(gateway) {
			return n, errors.New("metadata: the gateway is not an address, or link-local")
		}
		n.Gateway = gateway.String()
	}
	if w.DNS != "" {
		server, err := netip.ParseAddr(w.DNS)
		if err != nil || server.Zone() != "" || linkLocal().Contains(server) {
			return n, errors.New("metadata: the name server is not an address, or link-local")
		}
		n.DNS = server.String()
	}
	return n, nil
}

// EncodeMetadata writes it, and refuses what DecodeMetadata would not take. It reveals the token: the text goes to
// the guest's host and nowhere else.
func EncodeMetadata(m Metadata) ([]byte, error) {
	deadline := int64(0)
	if !m.Deadline.IsZero() {
		deadline = m.Deadline.Unix()
	}
	var others []doorWire
	for _, d := range m.Others {
		others = append(others, doorWire{d.Endpoint, fmt.Sprintf("%s%x", fingerprintHead, d.Fingerprint)})
	}
	text, err := json.Marshal(metadataWire{
		V: version, ID: m.ID, Others: others, Endpoint: m.Endpoint, Fingerprint: fmt.Sprintf("%s%x", fingerprintHead, m.Fingerprint),
		Token: m.Token.Reveal(), Address: m.Network.Address, Gateway: m.Network.Gateway, DNS: m.Network.DNS,
		Deadline: deadline, Heartbeat: int64(m.Heartbeat / time.Second),
	})
	if err == nil {
		_, err = DecodeMetadata(text)
	}
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "encode the guest's %w", err)
	}
	return text, nil
}

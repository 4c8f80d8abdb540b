package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/firerunner/firerunner"
)

// HostKind is what a message from the host says.
type HostKind string

// The messages from the host.
const (
	HostPing  HostKind = "ping"  // the host is there: say hello, unless you are under way
	HostStart HostKind = "start" // the answer to hello: Start, At, Entropy
	HostOrder HostKind = "order" // Order
	HostTime  HostKind = "time"  // the host's clock: At
	HostAck   HostKind = "ack"   // the host has recorded every message up to Number

	// Over a network only. Start carries a Session there.
	HostResume  HostKind = "resume"  // the answer to attach with a session: At, and Number as in ack
	HostRefused HostKind = "refused" // the guest is not wanted: Code
)

// FromHost is one message from the host to a guest.
type FromHost struct {
	Kind    HostKind
	At      time.Time             // start, time, resume
	Entropy []byte                // start: fresh randomness, to be mixed in before anything else
	Start   firerunner.GuestStart // start
	Order   firerunner.GuestOrder // order
	Number  int64                 // ack, resume
	Session firerunner.Secret     // start, over a network: what to attach with from now on
	Code    firerunner.Code       // refused
}

// Final reports whether a refusal with this code is for good: the guest turns itself off. Others may pass.
func Final(code firerunner.Code) bool {
	return code == firerunner.Conflict || code == firerunner.NotFound || code == firerunner.Unauthorized
}

type hostWire struct {
	V       int        `json:"v"`
	Kind    HostKind   `json:"kind"`
	UnixNS  int64      `json:"unix_ns,omitempty"`
	Entropy []byte     `json:"entropy,omitempty"`
	Start   *startWire `json:"start,omitempty"`
	Order   string     `json:"order,omitempty"`
	N       int64      `json:"n,omitempty"`
	Session string     `json:"session,omitempty"`
	Code    string     `json:"code,omitempty"`
}

// startWire is GuestStart on the wire. Token is a plain string here and nowhere else.
type startWire struct {
	URL         string      `json:"url"`
	Token       string      `json:"token"`
	CA          string      `json:"ca,omitempty"`
	Name        string      `json:"name"`
	MachineID   string      `json:"machine_id"`
	Hostname    string      `json:"hostname"`
	Network     networkWire `json:"network"`
	WaitTimeout int64       `json:"wait_timeout_s"`
	OutputKiB   int         `json:"output_kib,omitempty"`
	RunnerID    string      `json:"runner_id,omitempty"`
	SealTo      string      `json:"seal_to,omitempty"`
}

type networkWire struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
	DNS     string `json:"dns"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
}

// EncodeFromHost makes a line of it, newline included. Of a start it reveals the token and the session: the line
// goes to the guest and nowhere else.
func EncodeFromHost(m FromHost) ([]byte, error) {
	w := hostWire{V: version, Kind: m.Kind, Entropy: m.Entropy, Order: string(m.Order), N: m.Number, Code: string(m.Code)}
	if !m.At.IsZero() {
		w.UnixNS = m.At.UnixNano()
	}
	if m.Kind == HostStart {
		s := m.Start
		w.Session = m.Session.Reveal()
		w.Start = &startWire{
			URL: s.GitLabURL, Token: s.Token.Reveal(), CA: s.CA, Name: s.Name, MachineID: s.MachineID,
			Hostname: s.Hostname, Network: networkWire(s.Network), OutputKiB: s.OutputKiB, RunnerID: s.RunnerID, SealTo: s.SealTo,
			WaitTimeout: int64(math.Ceil(s.WaitTimeout.Seconds())),
		}
	}
	line, err := json.Marshal(w)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "encode host message: %w", err)
	}
	if len(line) >= MaxHostLine {
		return nil, firerunner.Errorf(firerunner.Invalid, "encode host message %s: %d bytes is more than a guest accepts (%d)",
			m.Kind, len(line), MaxHostLine)
	}
	return append(line, '\n'), nil
}

// DecodeFromHost reads one line from the host. Its errors never repeat what was in the line.
func DecodeFromHost(line []byte) (FromHost, error) {
	if len(line) > MaxHostLine {
		return FromHost{}, errLineTooLong
	}
	var w hostWire
	if err := json.Unmarshal(line, &w); err != nil {
		return FromHost{}, errors.New("not a message")
	}
	if w.V != version {
		return FromHost{}, fmt.Errorf("protocol version %d, want %d", w.V, version)
	}
	m := FromHost{Kind: w.Kind}
	if w.UnixNS < 0 {
		return FromHost{}, errors.New("time before 1970")
	}
	if w.UnixNS > 0 {
		m.At = time.Unix(0, w.UnixNS)
	}
	switch w.Kind {
	case HostPing:
	case HostTime:
		if m.At.IsZero() {
			return FromHost{}, errors.New("time without a time")
		}
	case HostAck:
		m.Number = w.N
	case HostResume:
		if m.Number = w.N; w.N < 0 || m.At.IsZero() {
			return FromHost{}, errors.New("resume without its content")
		}
	case HostRefused:
		if m.Code = firerunner.Code(w.Code); w.Code == "" || !word(w.Code, 32) {
			return FromHost{}, errors.New("refused with an odd code")
		}
	case HostOrder:
		m.Order = firerunner.GuestOrder(w.Order)
		if m.Order != firerunner.OrderFinish && m.Order != firerunner.OrderStop {
			return FromHost{}, errors.New("unknown order")
		}
	case HostStart:
		if w.Start == nil || m.At.IsZero() {
			return FromHost{}, errors.New("start without its content")
		}
		if w.Start.WaitTimeout < 0 || w.Start.WaitTimeout > math.MaxInt32 || w.Start.OutputKiB < 0 {
			return FromHost{}, errors.New("start with a number out of range")
		}
		if !credential(w.Session) {
			return FromHost{}, errors.New("start with an odd session")
		}
		m.Entropy, m.Session = w.Entropy, firerunner.Secret(w.Session)
		m.Start = firerunner.GuestStart{
			GitLabURL: w.Start.URL, Token: firerunner.Secret(w.Start.Token), CA: w.Start.CA, Name: w.Start.Name,
			MachineID: w.Start.MachineID, Hostname: w.Start.Hostname, Network: firerunner.GuestNetwork(w.Start.Network),
			WaitTimeout: time.Duration(w.Start.WaitTimeout) * time.Second, OutputKiB: w.Start.OutputKiB,
			RunnerID: w.Start.RunnerID, SealTo: w.Start.SealTo,
		}
	default:
		return FromHost{}, errors.New("unknown kind")
	}
	return m, nil
}

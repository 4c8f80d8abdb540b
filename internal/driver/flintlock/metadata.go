package flintlock

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// Keys of a guest's metadata, read at http://169.254.169.254/latest/KEY.
const (
	metaDataKey   = "meta-data"   // cloud-init's
	userDataKey   = "user-data"   // cloud-init's
	vendorDataKey = "vendor-data" // cloud-init's
	firerunnerKey = "firerunner"  // the guest agent's
)

// mostOthers is how many endpoints of other controllers a guest is told: as many as the agent takes, and one of ours.
const mostOthers = 15

// noVendorData says that there is none: cloud-init asks ten times for what is not there.
const noVendorData = "#cloud-config\n{}\n"

// guestStory is what the guest agent reads: who it is, whom to call, and how to know that one. Package guest has the
// other end; a test holds the two together.
type guestStory struct {
	V           int    `json:"v"`
	ID          string `json:"id"`
	Endpoint    string `json:"endpoint"`
	Fingerprint string `json:"fingerprint"`
	Token       string `json:"token"`
	Address     string `json:"address,omitempty"`
	Gateway     string `json:"gateway,omitempty"`
	DNS         string `json:"dns,omitempty"`
	Deadline    int64  `json:"deadline,omitempty"`  // seconds since 1970; the agent turns its microVM off then
	Heartbeat   int64  `json:"heartbeat,omitempty"` // seconds
	Others      []Door `json:"others,omitempty"`
}

// guestMetadata is all of it, in base64: flintlockd decodes what can be decoded. Any process in the guest can read it
// until the agent has closed the way, so its one secret is good once, and the GitLab token is not in it.
func (c Config) guestMetadata(h Host, spec firerunner.MicroVMSpec, token firerunner.Secret) (map[string]string, error) {
	var others []Door
	if c.Others != nil {
		others = c.Others()
	}
	story, err := json.Marshal(guestStory{
		V: 1, ID: spec.ID, Endpoint: or(h.GuestURL, c.GuestURL), Fingerprint: c.GuestFingerprint, Token: token.Reveal(),
		Address: spec.Address.Address, Gateway: plainAddress(spec.Address.Gateway), DNS: spec.Address.DNS,
		Deadline: spec.Deadline.Unix(), Heartbeat: int64(c.heartbeat() / time.Second), Others: others[:min(len(others), mostOthers)],
	})
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "the guest's metadata: %w", err)
	}
	values := map[string]string{metaDataKey: cloudMetaData(spec.ID), userDataKey: userData(c.Install), firerunnerKey: string(story)}
	for key, value := range values {
		values[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return values, nil
}

// heartbeat is how often a guest is to give a sign of life: three may be lost before it counts as dead.
func (c Config) heartbeat() time.Duration {
	return max(time.Second, min(c.HeartbeatTimeout/4, 15*time.Second))
}

// cloudMetaData says who the microVM is. flintlockd adds instance_id where there is none; cloud-init reads instance-id.
// https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
func cloudMetaData(id string) string {
	return fmt.Sprintf("instance_id: %[1]s\ninstance-id: %[1]s\nlocal-hostname: %[1]s\n", id)
}

// plainAddress takes the prefix length off.
func plainAddress(s string) string {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr().String()
	}
	return s
}

// tokenHash is the SHA-256 of the one-time token that a microVM was made with, as its host tells it; ok = false if the
// host does not tell.
func tokenHash(vm *types.MicroVM) (hash [32]byte, ok bool) {
	text, err := base64.StdEncoding.DecodeString(vm.GetSpec().GetMetadata()[firerunnerKey])
	var story guestStory
	if err != nil || json.Unmarshal(text, &story) != nil || story.Token == "" {
		return hash, false
	}
	return sha256.Sum256([]byte(story.Token)), true
}

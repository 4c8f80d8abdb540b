package flintlock

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// What the driver writes into the metadata is what the guest agent reads there.
func TestGuestReadsIt(t *testing.T) {
	t.Parallel()
	h := &house{T: t}
	spec := h.spec("vm1", "h0")
	spec.Deadline = time.Unix(1800000000, 5)
	spec.Address = firerunner.GuestNetwork{Address: "10.42.0.100/24", Gateway: "10.42.0.1", DNS: "10.42.0.1"}
	sum := strings.Repeat("5a", 32)
	request, err := Config{Namespace: "n", GuestURL: "192.0.2.1:8443", GuestFingerprint: "sha256:" + sum}.request(Host{Name: "h0"}, spec, "one-time")
	require.NoError(t, err)
	require.Equal(t, guest.MetadataKey, firerunnerKey)
	read, err := guest.DecodeMetadata([]byte(decoded(t, request, firerunnerKey)))
	require.NoError(t, err)
	want, err := guest.ParseFingerprint("sha256:" + sum)
	require.NoError(t, err)
	require.Equal(t, want, read.Fingerprint)
	require.Equal(t, "vm1", read.ID)
	require.Equal(t, "192.0.2.1:8443", read.Endpoint)
	require.Equal(t, firerunner.Secret("one-time"), read.Token)
	require.Equal(t, "10.42.0.100/24", read.Network.Address)
	require.Equal(t, "10.42.0.1", read.Network.Gateway)
	require.Equal(t, "10.42.0.1", read.Network.DNS)
	require.Equal(t, int64(1800000000), read.Deadline.Unix())
}

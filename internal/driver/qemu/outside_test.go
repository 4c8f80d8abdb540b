package qemu

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestSeedOK(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		seed{"user-data": "#cloud-config\n", "vendor-data": ""}.serve(t.Context(), near)
		_ = near.Close()
	}()
	in := bufio.NewReader(far)
	ask := func(method, path string) (int, string) {
		t.Helper()
		_, err := io.WriteString(far, method+" "+path+" HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
		require.NoError(t, err)
		answer, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(text)
	}
	status, text := ask("GET", "/latest/user-data")
	require.Equal(t, 200, status)
	require.Equal(t, "#cloud-config\n", text)
	status, text = ask("GET", "/latest/vendor-data")
	require.Equal(t, 200, status)
	require.Empty(t, text)
	for method, path := range map[string]string{"GET": "/latest/meta-data", "POST": "/latest/user-data", "PUT": "/user-data"} {
		status, _ = ask(method, path)
		require.Equal(t, 404, status, path)
	}
	_, err := io.WriteString(far, "nonsense\r\n\r\n")
	require.NoError(t, err)
	select {
	case <-served:
	case <-time.After(time.Minute):
		t.Fatal("it goes on with what is no request")
	}
	_ = far.Close()
}

func TestArgumentsOverSSH(t *testing.T) {
	t.Parallel()
	spec := shimSpec{ID: "a", Accel: AccelKVM, Provision: firerunner.ProvisionSSH, Start: firerunner.GuestStart{Network: testNetwork}}
	args := strings.Join(arguments(spec, testNetwork.MAC), " ")
	require.NotContains(t, args, portName, "where nobody listens, there is no port")
	require.Contains(t, args, "ds=nocloud-net;s=http://169.254.169.254/latest/")
	_, config, _ := strings.Cut(args, "network-config=")
	config, _, _ = strings.Cut(config, " ")
	text, err := base64.StdEncoding.DecodeString(config)
	require.NoError(t, err)
	for _, said := range []string{`macaddress: "52:54:00:12:34:56"`, "addresses: [10.42.0.2/24]", "gateway4: 10.42.0.1", "mtu: 1500"} {
		require.Contains(t, string(text), said)
	}
	spec.Provision = firerunner.ProvisionAgent
	args = strings.Join(arguments(spec, testNetwork.MAC), " ")
	require.Contains(t, args, portName)
	require.NotContains(t, args, "nocloud")
}

// offering is a network that remembers what is offered in it.
type offering struct {
	servedBy
	at        netip.AddrPort
	withdrawn int
}

func (o *offering) Offer(at netip.AddrPort, _ func(context.Context, net.Conn)) (withdraw func()) {
	o.at = at
	return func() { o.withdrawn++ }
}

// The metadata is there until the guest was entered, and gone at the latest when nobody provisions it any more.
func TestOutsideOffersMetadata(t *testing.T) {
	t.Parallel()
	network := &offering{}
	during := -1
	shim := Shim{Outside: func(host string, spec firerunner.MicroVMSpec) (firerunner.Outside, error) {
		require.Equal(t, "h1", host)
		require.Equal(t, "a", spec.ID)
		return firerunner.Outside{UserData: "#cloud-config\n", Run: func(ctx context.Context, way firerunner.OutsideWay) error {
			during = network.withdrawn
			require.True(t, way.Shut())
			_, err := way.Dial(ctx, 22)
			require.ErrorContains(t, err, "nobody listens")
			return errors.New("over")
		}}, nil
	}}
	o, err := newOutside(shim, shimSpec{ID: "a", Host: "h1"}, network)
	require.NoError(t, err)
	require.Contains(t, o.seed["meta-data"], "instance-id: a\n")
	require.ErrorContains(t, o.run(t.Context(), firerunner.GuestStart{}, nil, nil), "over")
	require.Zero(t, during)
	require.Equal(t, metadataAt, network.at.String())
	require.Equal(t, 2, network.withdrawn)
}

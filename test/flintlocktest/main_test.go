package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunOK(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("s3cret\n"), 0o600))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	command := newCommand()
	out, in := io.Pipe()
	command.SetOut(in)
	command.SetErr(io.Discard)
	command.SetArgs([]string{"--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--accel", "none", "--token-file", token, "--capacity", "4:4096"})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- command.ExecuteContext(running) }()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	address, found := strings.CutPrefix(lines.Text(), "listening on ")
	require.True(t, found)
	require.True(t, lines.Scan())
	control, found := strings.CutPrefix(lines.Text(), "control on ")
	require.True(t, found)

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	client := v1alpha1.NewMicroVMClient(conn)
	_, err = client.ListMicroVMs(ctx, &v1alpha1.ListMicroVMsRequest{})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	known := metadata.AppendToOutgoingContext(ctx, "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("s3cret")))
	_, err = client.ListMicroVMs(known, &v1alpha1.ListMicroVMsRequest{})
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	answer, err := http.Get(control + "/vms")
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	answer.Body.Close()
	require.Equal(t, "[]\n", string(text))
	http.DefaultClient.CloseIdleConnections()
	stop()
	require.NoError(t, <-ended)
}

func TestRunErrInvalid(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, args := range map[string][]string{
		"--accel":            {"--accel", "xen"},
		"--capacity":         {"--capacity", "8"},
		"--route":            {"--route", "gitlab=127.0.0.1:80"},
		"no such file":       {"--token-file", missing},
		"is empty":           {"--token-file", empty},
		"--tls-cert":         {"--tls-cert", empty, "--tls-key", empty},
		"not a loopback":     {"--accel", "none", "--control", "192.0.2.1:1"},
		"unknown flag":       {"--nonsense"},
		"missing port":       {"--accel", "none", "--listen", "127.0.0.1"},
		"--control nonsense": {"--accel", "none", "--listen", "127.0.0.1:0", "--control", "nonsense"},
	} {
		command := newCommand()
		var out bytes.Buffer
		command.SetOut(&out)
		command.SetErr(&out)
		if args[0] != "--listen" {
			args = append([]string{"--listen", "127.0.0.1:0"}, args...)
		}
		command.SetArgs(args)
		require.ErrorContains(t, command.ExecuteContext(t.Context()), want)
	}
}

func TestConfigOK(t *testing.T) {
	o := options{accel: "tcg", capacity: "8:1024", routes: []string{"gitlab:80=127.0.0.1:8080"}, public: true, insecure: []string{"a:1"}}
	cfg, err := o.config(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, flintlocktest.Capacity{VCPUs: 8, MemoryMiB: 1024}, cfg.Capacity)
	require.IsType(t, &flintlocktest.QEMU{}, cfg.VMM)
	require.Equal(t, []string{"a:1"}, cfg.Images.(*flintlocktest.Registry).Insecure)
	o.cache = "relative"
	cfg, err = o.config(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.True(t, filepath.IsAbs(cfg.Images.(*flintlocktest.Registry).CacheDir))
}

func TestConnector(t *testing.T) {
	connect := connector(firerunner.NetworkPolicy{}, slog.New(slog.DiscardHandler))
	for address, ok := range map[string]bool{"": true, "10.42.0.77/24": true, "192.168.1.1/24": false, "x": false} {
		link, err := connect(flintlocktest.Machine{}, flintlocktest.Interface{Address: address})
		require.Equal(t, ok, err == nil, address)
		if ok {
			require.NotEmpty(t, link.MAC)
			require.NoError(t, link.Close())
		}
	}
	link, err := connect(flintlocktest.Machine{}, flintlocktest.Interface{GuestMAC: "02:00:00:00:00:07"})
	require.NoError(t, err)
	require.Equal(t, "02:00:00:00:00:07", link.MAC)
	require.NoError(t, link.Close())
	_, err = connect(flintlocktest.Machine{}, flintlocktest.Interface{GuestMAC: "x"})
	require.Error(t, err)
}

func TestHelp(t *testing.T) {
	command := newCommand()
	var out bytes.Buffer
	command.SetOut(&out)
	command.SetArgs([]string{"--help"})
	require.NoError(t, command.Execute())
	for _, want := range []string{"--listen", "--token-file", "--registry-insecure", "169.254.169.254", "Examples:"} {
		require.Contains(t, out.String(), want)
	}
}

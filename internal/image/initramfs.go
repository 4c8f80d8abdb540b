package image

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/firerunner/firerunner"
)

// guestModules lists the modules that an initial RAM disk carries, in the order of loading, with the condition on
// which the agent loads each: see cmd/fireguest, modules.go. What a module depends on
// is put before it, with its condition; this list need not name it.
var guestModules = []moduleWish{
	{"virtio_mmio", "always"},
	{"virtio_pci", "pci"},
	{"virtio_blk", "virtio:2"},
	{"virtio_net", "virtio:1"},
	{"virtio_console", "virtio:3"},
	{"virtio_rng", "virtio:4"},
	{"virtio_balloon", "virtio:5"},
	{"vmw_vsock_virtio_transport", "virtio:19"},
}

type moduleWish struct {
	Name      string // as lsmod says it: with _ for -
	Condition string
}

// Module is a kernel module in an initial RAM disk.
type Module struct {
	Name      string // file name: virtio_blk.ko
	Condition string // always, pci, or virtio:N,...
	Data      []byte
}

// Initramfs writes an initial RAM disk: the agent as /init, the modules in the order in which it loads them, and what
// else there is to be.
func Initramfs(w io.Writer, agent []byte, modules []Module, more ...Entry) error {
	entries := []Entry{
		{Path: "dev", Mode: TypeDir | 0o755},
		{Path: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "proc", Mode: TypeDir | 0o755},
		{Path: "sys", Mode: TypeDir | 0o755},
		{Path: "root", Mode: TypeDir | 0o700},
		{Path: "modules", Mode: TypeDir | 0o700},
		{Path: "init", Mode: TypeFile | 0o755, Data: agent},
	}
	entries = append(entries, more...)
	var list bytes.Buffer
	for _, m := range modules {
		list.WriteString(m.Name + " " + m.Condition + "\n")
		entries = append(entries, Entry{Path: "modules/" + m.Name, Mode: TypeFile | 0o600, Data: m.Data})
	}
	entries = append(entries, Entry{Path: "modules/list", Mode: TypeFile | 0o600, Data: list.Bytes()})
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(8<<20))
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "compress the initial RAM disk: %w", err)
	}
	if err := WriteCPIO(compressed, entries); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "write the initial RAM disk: %w", err)
	}
	if err := compressed.Close(); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "write the initial RAM disk: %w", err)
	}
	return nil
}

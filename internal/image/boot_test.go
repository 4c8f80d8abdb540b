package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestWriteCPIOOK(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, WriteCPIO(&b, []Entry{
		{Path: "dir/file", Mode: TypeFile | 0o644, Data: []byte("hello")},
		{Path: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "dir", Mode: TypeDir | 0o755},
		{Path: "dev", Mode: TypeDir | 0o755},
	}))
	require.Zero(t, b.Len()%512)
	require.Equal(t, 5, bytes.Count(b.Bytes(), []byte("070701")))
	text := b.String()
	order := []string{"dev\x00", "dev/console\x00", "dir\x00", "dir/file\x00\x00hello\x00", "TRAILER!!!\x00"}
	at := 0
	for _, want := range order {
		next := strings.Index(text[at:], want)
		require.GreaterOrEqual(t, next, 0, want)
		at += next
	}
	if path, err := exec.LookPath("cpio"); err == nil {
		cmd := exec.Command(path, "-it")
		cmd.Stdin = &b
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "dev\ndev/console\ndir\ndir/file\n", string(out))
	}
	require.ErrorIs(t, WriteCPIO(failingWriter{}, nil), errFull)
	require.Error(t, Initramfs(failingWriter{}, nil, nil))
}

var errFull = errors.New("full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestInitramfsOK(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Initramfs(&b, []byte("AGENT"), []Module{{"a.ko", "always", []byte("AAA")}, {"b.ko", "virtio:2,pci", []byte("BBB")}}))
	d, err := zstd.NewReader(&b)
	require.NoError(t, err)
	defer d.Close()
	plain, err := io.ReadAll(d)
	require.NoError(t, err)
	for _, want := range []string{"init\x00", "AGENT", "modules/list\x00", "a.ko always\nb.ko virtio:2,pci\n", "dev/console"} {
		require.Contains(t, string(plain), want)
	}
}

// moduleELF is the smallest ELF file with a .modinfo section.
func moduleELF(t *testing.T, info string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2, Shoff: uint64(64 + len(info) + len(names)),
	}
	require.NoError(t, binary.Write(&b, binary.LittleEndian, header))
	b.WriteString(info + names)
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))},
	} {
		require.NoError(t, binary.Write(&b, binary.LittleEndian, s))
	}
	return b.Bytes()
}

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	b := make([]byte, 5*512+16)
	copy(b[0x202:], "HdrS")
	b[0x1f1] = 4
	binary.LittleEndian.PutUint32(b[0x248:], 16)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(b, payload...)
}

func lz4Legacy() []byte {
	// "\x7fELFaaaa...": four literals and one, then a match of 20 that overlaps itself, then the last literals.
	block := []byte{0x5f, 0x7f, 'E', 'L', 'F', 'a', 1, 0, 1, 0x20, 'e', 'n'}
	frame := []byte{0x02, 0x21, 0x4c, 0x18}
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(block)))
	frame = append(frame, block...)
	return binary.LittleEndian.AppendUint32(frame, 27) // the size, which the kernel's build appends
}

func TestVmlinuxOK(t *testing.T) {
	kernel := []byte("\x7fELF and the rest of it")
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write(kernel)
	require.NoError(t, w.Close())
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer enc.Close()
	for name, tc := range map[string]struct {
		payload []byte
		want    string
	}{
		"gzip": {append(gz.Bytes(), 1, 2, 3, 4), string(kernel)},
		"zstd": {append(enc.EncodeAll(kernel, nil), 1, 2, 3, 4), string(kernel)},
		"lz4":  {lz4Legacy(), "\x7fELF" + strings.Repeat("a", 21) + "en"},
	} {
		got, err := vmlinux(bzImage(tc.payload))
		require.NoError(t, err, name)
		require.Equal(t, tc.want, string(got), name)
	}
}

func TestVmlinuxErrDamaged(t *testing.T) {
	for want, b := range map[string][]byte{
		"not a bzImage":       []byte("x"),
		"unknown compression": bzImage([]byte("0123456789")),
		"not an ELF":          bzImage(append([]byte{0x02, 0x21, 0x4c, 0x18, 3, 0, 0, 0}, 0x20, 'x', 'y')),
		"outside":             bzImage(nil)[:5*512],
		"damaged":             bzImage([]byte{0x02, 0x21, 0x4c, 0x18, 3, 0, 0, 0, 0xff, 0xff, 0xff}),
	} {
		_, err := vmlinux(b)
		require.ErrorContains(t, err, want)
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add(lz4Legacy())
	f.Fuzz(func(t *testing.T, payload []byte) { _, _ = vmlinux(bzImage(payload)) })
}

// readKernel reads one package.
func readKernel(r io.Reader, wishes []moduleWish, decompress func(name string, data []byte) ([]byte, error)) (kernelParts, error) {
	k := kernelFiles{modules: map[string][]byte{}}
	if err := k.add(r); err != nil {
		return kernelParts{}, err
	}
	return k.choose(wishes, decompress)
}

func TestReadKernelOK(t *testing.T) {
	const at = "./lib/modules/6.1/kernel/drivers/"
	module := func(depends string) string {
		return string(moduleELF(t, "license=GPL\x00depends="+depends+"\x00name=x\x00"))
	}
	deb := tarOf(t,
		[2]string{"./boot/", ""}, [2]string{"./boot/vmlinuz-6.1.0-test", "raw kernel"}, [2]string{"./boot/config-6.1.0-test", "x"},
		[2]string{at + "virtio_ring.ko", module("")}, [2]string{at + "virtio.ko.xz", "PACKED"},
		[2]string{at + "virtio_blk.ko", module("virtio,virtio-ring")}, [2]string{at + "virtio-rng.ko", module("virtio")},
		[2]string{at + "unwanted.ko", "not ELF"})
	unpacked := 0
	parts, err := readKernel(bytes.NewReader(deb), []moduleWish{{"virtio_blk", "virtio:2"}, {"virtio_rng", "virtio:4"}, {"builtin", "always"}},
		func(name string, data []byte) ([]byte, error) {
			unpacked++
			require.Equal(t, "virtio.ko.xz", name)
			return []byte(module("virtio_ring")), nil
		})
	require.NoError(t, err)
	require.Equal(t, "6.1.0-test", parts.Version)
	require.Equal(t, "raw kernel", string(parts.Image), "what cannot be unpacked stays as it is")
	var got []string
	for _, m := range parts.Modules {
		got = append(got, m.Name+" "+m.Condition)
	}
	require.Equal(t, []string{"virtio_ring.ko virtio:2,virtio:4", "virtio.ko virtio:2,virtio:4", "virtio_blk.ko virtio:2", "virtio-rng.ko virtio:4"}, got)
	require.Equal(t, 1, unpacked)
}

func TestReadKernelErrInvalid(t *testing.T) {
	kernel := [2]string{"./boot/vmlinuz-6", "k"}
	for want, deb := range map[string][]byte{
		"no kernel":     tarOf(t, [2]string{"x", "y"}),
		"module a":      tarOf(t, kernel, [2]string{"./a.ko", "not ELF"}),
		"no .modinfo":   tarOf(t, kernel, [2]string{"./a.ko", strings.Replace(string(moduleELF(t, "x")), ".modinfo", ".notinfo", 1)}),
		"circle":        tarOf(t, kernel, [2]string{"./a.ko", string(moduleELF(t, "depends=b\x00"))}, [2]string{"./b.ko", string(moduleELF(t, "depends=a\x00"))}),
		"unpack failed": tarOf(t, kernel, [2]string{"./a.ko.xz", "x"}),
		"unexpected":    []byte("short"),
	} {
		_, err := readKernel(bytes.NewReader(deb), []moduleWish{{"a", "always"}}, func(string, []byte) ([]byte, error) { return nil, errors.New("unpack failed") })
		require.ErrorContains(t, err, want)
	}
}

package qemu

import (
	"bufio"
	"encoding/json"
	"io"
)

// monitorLine bounds one message of qemu's monitor: qemu has a hostile guest.
const monitorLine = 64 << 10

// monitorFD is the descriptor by which qemu has its monitor: behind the guest's, and the network's if there is one.
func monitorFD(mac string) int {
	if mac == "" {
		return networkFD
	}
	return networkFD + 1
}

// watchDisk listens to qemu's monitor until it ends, and closes m.full when a write of the guest found no room on the
// host. Such a guest stands still (werror=enospc): it must not go on with a disk that lost what was written, because its
// job could succeed with a wrong result. https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#qapidoc-126
func (m *machine) watchDisk() {
	in := bufio.NewScanner(m.monitor)
	in.Buffer(nil, monitorLine)
	// The greeting comes unasked, and events only after this.
	if _, err := io.WriteString(m.monitor, `{"execute": "qmp_capabilities"}`+"\n"); err != nil {
		return
	}
	for full := false; in.Scan(); {
		var said struct {
			Event string `json:"event"`
			Data  struct {
				Action  string `json:"action"`
				NoSpace bool   `json:"nospace"`
			} `json:"data"`
		}
		if json.Unmarshal(in.Bytes(), &said) != nil {
			continue
		}
		if said.Event == "BLOCK_IO_ERROR" && said.Data.Action == "stop" && said.Data.NoSpace && !full {
			full = true
			close(m.full)
		}
	}
}

package flintlocktest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// provide pulls what the microVM needs, unless it has it already, and starts its machine, unless it runs.
func (d *daemon) provide(r *record) error {
	s := d.srv
	s.mu.Lock()
	spec, pulled := r.view().GetSpec(), r.pulled
	s.mu.Unlock()
	if !pulled {
		if err := d.pullAll(r, spec); err != nil {
			return err
		}
	}
	s.mu.Lock()
	_, alive := s.running[r.uid()]
	s.mu.Unlock()
	if alive {
		return nil
	}
	return d.boot(r, spec)
}

// pullAll pulls in flintlockd's order. What was pulled before a failure is pulled again at the next try.
func (d *daemon) pullAll(r *record, spec *types.MicroVMSpec) error {
	s := d.srv
	if spec.GetRootVolume() == nil {
		return errNoRootVolume
	}
	var disks []Disk
	volumes := map[string]*types.VolumeStatus{}
	for _, v := range append([]*types.Volume{spec.GetRootVolume()}, spec.GetAdditionalVolumes()...) {
		base, err := d.pull(v.GetSource().GetContainerSource(), "", true)
		if err != nil {
			return fmt.Errorf("mounting volume %s: %w", v.GetId(), err)
		}
		// Volumes of one id share a snapshot, as they do in flintlockd.
		key := nameHash(spec.GetUid() + "/" + v.GetId())
		layer := filepath.Join(s.machineDir(spec.GetUid()), "disk-"+key+".qcow2")
		disks = append(disks, Disk{ID: v.GetId(), Base: base, Layer: layer, ReadOnly: v.GetIsReadOnly()})
		volumes[v.GetId()] = &types.VolumeStatus{Mount: &types.Mount{Type: types.Mount_DEV, Source: "/dev/mapper/flintlock-thinpool-snap-" + key}}
	}
	kernel, err := d.pull(spec.GetKernel().GetImage(), spec.GetKernel().GetFilename(), false)
	if err != nil {
		return fmt.Errorf("mounting the kernel: %w", err)
	}
	initrd := ""
	if i := spec.GetInitrd(); i != nil {
		if initrd, err = d.pull(i.GetImage(), i.GetFilename(), false); err != nil {
			return fmt.Errorf("mounting the initrd: %w", err)
		}
	}
	interfaces := map[string]*types.NetworkInterfaceStatus{}
	for n, i := range spec.GetInterfaces() {
		device := hostDevice(spec.GetUid(), n)
		interfaces[i.GetDeviceId()] = &types.NetworkInterfaceStatus{
			HostDeviceName: device, Index: int32(100 + n), MacAddress: macOf("host"+spec.GetUid(), n),
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.kernel, r.initrd, r.disks, r.pulled = kernel, initrd, disks, true
	r.vm.Status.Volumes, r.vm.Status.NetworkInterfaces = volumes, interfaces
	r.vm.Status.KernelMount = &types.Mount{Type: types.Mount_HOSTPATH, Source: "/var/lib/containerd/native/snapshots/kernel"}
	if spec.GetInitrd() != nil {
		r.vm.Status.InitrdMount = &types.Mount{Type: types.Mount_HOSTPATH, Source: "/var/lib/containerd/native/snapshots/initrd"}
	}
	if spec.GetAllowGuestAgent() {
		r.vm.Status.VsockPath = s.vsockPath(spec)
	}
	return nil
}

// pull gets a file of an image, or all of it as a disk. It asks the registry every time.
func (d *daemon) pull(ref, filename string, asDisk bool) (string, error) {
	s := d.srv
	s.mu.Lock()
	s.counters.Pulls++
	delayed := s.strike(func(f *Fault) bool { return f.Action == FaultPullDelay && f.matchesImage(ref) })
	failed := s.strike(func(f *Fault) bool { return f.Action == FaultPullError && f.matchesImage(ref) })
	s.touch()
	s.mu.Unlock()
	if err := pullable(ref); err != nil {
		return "", err
	}
	if delayed != nil {
		pause(d.ctx, delayed.Delay)
	}
	switch {
	case d.ctx.Err() != nil:
		return "", errDown
	case failed != nil:
		return "", fmt.Errorf("pulling image %s: %s", ref, orDefault(failed.Message, "dial tcp: connect: no route to host"))
	case s.cfg.Images == nil:
		return "", nil
	case asDisk:
		return s.cfg.Images.Disk(d.ctx, ref)
	}
	return s.cfg.Images.File(d.ctx, ref, filename)
}

// boot starts the machine. That the process was started is all that flintlockd looks at.
func (d *daemon) boot(r *record, spec *types.MicroVMSpec) error {
	s := d.srv
	s.mu.Lock()
	m := s.machine(r)
	m.Boot = r.boots + 1
	refusal := s.refusal(spec, m)
	dead := s.strike(func(f *Fault) bool { return f.Action == FaultDeadBoot && f.matchesName(r.id(), r.uid()) })
	failed := s.strike(func(f *Fault) bool { return f.Action == FaultBootError && f.matchesName(r.id(), r.uid()) })
	size := Capacity{m.VCPUs, m.MemoryMiB}
	fits := s.fits(size)
	s.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("starting firecracker: %s", orDefault(failed.Message, "fork/exec: resource temporarily unavailable"))
	}
	if !fits {
		return errors.New("starting firecracker: cannot allocate memory")
	}
	process := deadProcess()
	if refusal != "" || dead != nil {
		size = Capacity{}
	} else {
		m.Cmdline = s.kernelLine(spec)
		var err error
		if process, err = s.cfg.VMM.Start(d.ctx, m); err != nil {
			return fmt.Errorf("starting firecracker: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.boots++
	s.counters.Boots++
	if r.state() == stateCreated {
		s.counters.GhostBoots++
	}
	if refusal != "" {
		s.log.Warn("the VMM refused its configuration", "uid", r.uid(), "reason", refusal)
		r.refusal = refusal
	}
	s.watch(r.uid(), process, size)
	s.log.Info("machine started", "uid", r.uid(), "boot", m.Boot)
	return nil
}

// refusal is why Firecracker would end at once. Flintlockd sees nothing of it. The caller holds mu.
func (s *Server) refusal(spec *types.MicroVMSpec, m Machine) string {
	switch v := spec.GetVcpu(); {
	case v > 32 || v > 1 && v%2 != 0:
		return fmt.Sprintf("the number of vCPUs is %d: at most 32, and 1 or even", v)
	}
	if !m.Interfaces[0].Metadata {
		return "mmds-config: missing field network_interfaces"
	}
	if size := metadataStoreBytes(m.Metadata); size > MetadataStoreLimit {
		return fmt.Sprintf("the metadata has %d bytes, the limit is %d", size, MetadataStoreLimit)
	}
	if spec.GetAllowGuestAgent() && len(s.vsockPath(spec)) > 107 {
		return "the path of the vsock socket is longer than 107 bytes"
	}
	return ""
}

func (s *Server) vsockPath(spec *types.MicroVMSpec) string {
	return filepath.Join(s.cfg.StateDir, "vm", spec.GetNamespace(), spec.GetId(), spec.GetUid(), "guest-agent.vsock")
}

func (s *Server) fits(size Capacity) bool {
	used, limit := s.used(), s.cfg.Capacity
	return (limit.VCPUs == 0 || used.VCPUs+size.VCPUs <= limit.VCPUs) &&
		(limit.MemoryMiB == 0 || used.MemoryMiB+size.MemoryMiB <= limit.MemoryMiB)
}

// machine is what a record asks of the VMM. The caller holds mu.
func (s *Server) machine(r *record) Machine {
	spec := r.spec()
	m := Machine{
		UID: r.uid(), Namespace: r.namespace(), ID: r.id(),
		VCPUs: int(spec.GetVcpu()), MemoryMiB: int(spec.GetMemoryInMb()),
		Kernel: r.kernel, Initrd: r.initrd, Disks: append([]Disk(nil), r.disks...),
		Metadata: map[string]string{}, Dir: s.machineDir(r.uid()),
	}
	for key, value := range spec.GetMetadata() {
		m.Metadata[key] = decoded(value)
	}
	for n, i := range spec.GetInterfaces() {
		m.Interfaces = append(m.Interfaces, Interface{
			DeviceID: i.GetDeviceId(), GuestMAC: i.GetGuestMac(), HostDevice: hostDevice(r.uid(), n),
			// A client's own interface of this name is not connected to the metadata service.
			Metadata: n == 0 && i.GetDeviceId() == metadataDevice && !askedFor(r.asked, metadataDevice),
			Address:  i.GetAddress().GetAddress(), Gateway: i.GetAddress().GetGateway(), Nameservers: i.GetAddress().GetNameservers(),
		})
	}
	return m
}

func askedFor(asked *types.MicroVMSpec, device string) bool {
	for _, i := range asked.GetInterfaces() {
		if i.GetDeviceId() == device {
			return true
		}
	}
	return false
}

func hostDevice(uid string, n int) string {
	return "fltap" + nameHash(fmt.Sprintf("%s/%d", uid, n))[:7]
}

func nameHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

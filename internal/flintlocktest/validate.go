package flintlocktest

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

var deviceIDs = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// validate is flintlockd's own check of a spec whose defaults are filled in. It lets through what it should not: see
// the tests. Every error reaches the client with code Unknown.
func validate(spec *types.MicroVMSpec, kernelGiven bool) error {
	if err := validateName(spec); err != nil {
		return err
	}
	switch p := spec.GetProvider(); p {
	case "", "firecracker":
	default:
		return fmt.Errorf("microvm provider %s isn't available", p)
	}
	if v := spec.GetVcpu(); v < 1 || v > 64 {
		return fmt.Errorf("validation: Key: 'MicroVM.Spec.VCPU' Error: %d is not between 1 and 64", v)
	}
	if m := spec.GetMemoryInMb(); m < 1024 || m > 32768 {
		return fmt.Errorf("validation: Key: 'MicroVM.Spec.MemoryInMb' Error: %d is not between 1024 and 32768", m)
	}
	if kernelGiven {
		if spec.GetKernel().GetFilename() == "" {
			return errors.New("validation: Key: 'MicroVM.Spec.Kernel.Filename' Error: required")
		}
		if err := validateImage("Kernel.Image", spec.GetKernel().GetImage()); err != nil {
			return err
		}
	}
	if spec.GetInitrd() != nil {
		if err := validateImage("Initrd.Image", spec.GetInitrd().GetImage()); err != nil {
			return err
		}
	}
	if err := validateVolumes(spec); err != nil {
		return err
	}
	if len(spec.GetInterfaces()) == 0 {
		return errors.New("validation: Key: 'MicroVM.Spec.NetworkInterfaces' Error: required")
	}
	for _, i := range spec.GetInterfaces() {
		if err := validateInterface(i); err != nil {
			return err
		}
	}
	return nil
}

// validateName: containerd, where the record goes, refuses spaces and what is not ASCII, and nothing else.
func validateName(spec *types.MicroVMSpec) error {
	if spec.GetId() == "" {
		return errors.New("creating vmid: name is required")
	}
	for _, text := range []string{spec.GetId(), spec.GetNamespace()} {
		for _, c := range text {
			if c > unicode.MaxASCII || unicode.IsSpace(c) || unicode.IsControl(c) {
				return fmt.Errorf("finding microvm spec: parsing filter: unexpected input %q in %q: invalid argument", c, text)
			}
		}
	}
	return nil
}

func validateVolumes(spec *types.MicroVMSpec) error {
	if spec.GetRootVolume() == nil && spec.GetInitrd() == nil {
		return errors.New("validation: Key: 'MicroVM.Spec.RootVolume' Error: required without Initrd")
	}
	volumes := spec.GetAdditionalVolumes()
	if spec.GetRootVolume() != nil {
		volumes = append([]*types.Volume{spec.GetRootVolume()}, volumes...)
	}
	for _, v := range volumes {
		if v.GetSource().GetVirtiofsSource() != "" {
			return fmt.Errorf("volume %s: virtiofs is not supported by the microvm provider", v.GetId())
		}
		if err := validateImage("Volume.Source", v.GetSource().GetContainerSource()); err != nil {
			return err
		}
	}
	return nil
}

// validateImage lets short references through, such as "alpine": only the pull fails on them.
func validateImage(field, ref string) error {
	if _, err := name.ParseReference(ref); err != nil {
		return fmt.Errorf("validation: Key: 'MicroVM.Spec.%s' Error: %q is not an image", field, ref)
	}
	return nil
}

func validateInterface(i *types.NetworkInterface) error {
	if !deviceIDs.MatchString(i.GetDeviceId()) {
		return fmt.Errorf("validation: Key: 'MicroVM.Spec.NetworkInterfaces.GuestDeviceName' Error: %q", i.GetDeviceId())
	}
	if i.GetType() != types.NetworkInterface_TAP { // MACVTAP is the zero value
		return fmt.Errorf("interface %s: macvtap is not supported by the microvm provider", i.GetDeviceId())
	}
	a := i.GetAddress()
	if a == nil {
		return nil
	}
	if _, err := netip.ParsePrefix(a.GetAddress()); err != nil {
		return fmt.Errorf("interface %s: static address %q: not in CIDR form", i.GetDeviceId(), a.GetAddress())
	}
	if a.Gateway != nil {
		if _, err := netip.ParsePrefix(a.GetGateway()); err != nil {
			return fmt.Errorf("interface %s: gateway %q: not in CIDR form", i.GetDeviceId(), a.GetGateway())
		}
	}
	for _, n := range a.GetNameservers() {
		if _, err := netip.ParseAddr(n); err != nil {
			return fmt.Errorf("interface %s: name server %q: not an address", i.GetDeviceId(), n)
		}
	}
	return nil
}

// pullable is what containerd wants of a reference: a registry's host, and a tag or a digest.
func pullable(ref string) error {
	host, rest, found := strings.Cut(ref, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("pulling image %s: invalid reference: no host name", ref)
	}
	if !strings.ContainsAny(rest, ":@") {
		return fmt.Errorf("pulling image %s: object required", ref)
	}
	return nil
}

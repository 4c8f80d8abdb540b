package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// addEntropy mixes the host's randomness into the kernel's and makes the kernel use it at once. Without it, every
// microVM of one snapshot draws the same "random" numbers: random(4), RNDADDENTROPY and RNDRESEEDCRNG.
func addEntropy(entropy []byte) error {
	const maxEntropy = 512
	if len(entropy) < 32 || len(entropy) > maxEntropy {
		return fmt.Errorf("%d bytes of randomness are too few or too many", len(entropy))
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info { int entropy_count; int buf_size; __u32 buf[]; }
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(entropy)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(entropy)))
	info = append(info, entropy...)
	if err := ioctlPointer(f.Fd(), unix.RNDADDENTROPY, info); err != nil {
		return fmt.Errorf("add randomness: %w", err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("use the new randomness: %w", err)
	}
	return nil
}

// setClock sets the clock, if it is off by more than a running clock may be.
func setClock(at time.Time) error {
	const tolerated = 250 * time.Millisecond
	if off := time.Until(at); off.Abs() <= tolerated {
		return nil
	}
	tv := unix.NsecToTimeval(at.UnixNano())
	return unix.Settimeofday(&tv)
}

package firerunner

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Size is what a microVM is given.
type Size struct {
	VCPUs     int
	MemoryMiB int
	DiskMiB   int // most that the job may write; the base image is not counted
}

// String is the size as its tag says it; disk is left out.
func (s Size) String() string {
	if s.MemoryMiB%1024 == 0 {
		return fmt.Sprintf("%dcpu-%dgb", s.VCPUs, s.MemoryMiB/1024)
	}
	return fmt.Sprintf("%dcpu-%dmb", s.VCPUs, s.MemoryMiB)
}

// sizeTag allows up to 6 digits: enough for any machine, far from overflow.
var sizeTag = regexp.MustCompile(`^firecracker-([0-9]{1,6})cpu-([0-9]{1,6})gb$`)

// ParseSizeTag reads firecracker-{N}cpu-{M}gb, such as firecracker-2cpu-4gb. The answer is ok = false for a
// tag that is not a size tag at all; zero vCPUs or zero memory is a size tag that no limit permits.
func ParseSizeTag(tag string) (size Size, ok bool) {
	m := sizeTag.FindStringSubmatch(tag)
	if m == nil {
		return Size{}, false
	}
	cpus, _ := strconv.Atoi(m[1])
	gb, _ := strconv.Atoi(m[2])
	return Size{VCPUs: cpus, MemoryMiB: gb * 1024}, true
}

// SizeLimits are the smallest and the largest size that a tag may ask for.
type SizeLimits struct {
	Min, Max Size
}

// Check says in words why a size is beyond the limits; nil if it is within.
func (l SizeLimits) Check(s Size) error {
	switch {
	case s.VCPUs < l.Min.VCPUs || s.MemoryMiB < l.Min.MemoryMiB:
		return Errorf(Invalid, "size %s is below the smallest that is allowed, %s", s, l.Min)
	case s.VCPUs > l.Max.VCPUs || s.MemoryMiB > l.Max.MemoryMiB:
		return Errorf(Invalid, "size %s is beyond the largest that is allowed, %s", s, l.Max)
	}
	return nil
}

// What Flintlock and Firecracker can make: Flintlock refuses less memory and more, Firecracker more vCPUs, and the odd
// numbers above 1, because Flintlock turns hyper-threading on (https://github.com/liquidmetal-dev/flintlock).
const (
	FlintlockMaxVCPUs     = 32
	FlintlockMinMemoryMiB = 1024
	FlintlockMaxMemoryMiB = 32768
)

// FitFlintlock returns the next size up that Flintlock can make, and in words why it is another than the one that was
// asked for. A zero size: there is none.
func FitFlintlock(s Size) (fitted Size, why string) {
	if s.VCPUs > FlintlockMaxVCPUs || s.MemoryMiB > FlintlockMaxMemoryMiB {
		return Size{}, fmt.Sprintf("flintlock makes microVMs of at most %d vCPUs and %d MiB", FlintlockMaxVCPUs, FlintlockMaxMemoryMiB)
	}
	fitted = s
	var because []string
	if s.VCPUs < 1 {
		fitted.VCPUs = 1
	} else if s.VCPUs > 1 && s.VCPUs%2 == 1 {
		fitted.VCPUs++
		because = append(because, "flintlock makes 1 vCPU or an even number")
	}
	if s.MemoryMiB < FlintlockMinMemoryMiB {
		fitted.MemoryMiB = FlintlockMinMemoryMiB
		because = append(because, fmt.Sprintf("flintlock makes no microVM below %d MiB", FlintlockMinMemoryMiB))
	}
	return fitted, strings.Join(because, "; ")
}

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPointer is ioctl(2) with a structure: golang.org/x/sys has no general one.
func ioctlPointer(fd uintptr, request uint, arg []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return errno
	}
	return nil
}

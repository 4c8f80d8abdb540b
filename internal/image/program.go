package image

import (
	"debug/elf"
	"runtime"

	"github.com/firerunner/firerunner"
)

// machine says what ELF calls a Go architecture.
func machine(arch string) elf.Machine {
	switch arch {
	case "amd64":
		return elf.EM_X86_64
	case "arm64":
		return elf.EM_AARCH64
	}
	return elf.EM_NONE
}

// checkProgram checks that a file is a program for a guest on this machine. One that has to be static may need no
// library: the agent runs where there are none, in the initial RAM disk and in any system.
func checkProgram(name, path string, static bool) error {
	f, err := elf.Open(path)
	if err != nil {
		return firerunner.Errorf(firerunner.Invalid, "look at %s: it is not a program for Linux (ELF): %w", name, err)
	}
	defer f.Close()
	if want := machine(runtime.GOARCH); f.Machine != want {
		return firerunner.Errorf(firerunner.Invalid, "look at %s: it is for %s, and guests on this machine need %s", name, f.Machine, want).
			WithHint("take the one for linux/%s", runtime.GOARCH)
	}
	if !static {
		return nil
	}
	needs := ""
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			needs = "the dynamic loader"
		}
	}
	if libraries, err := f.ImportedLibraries(); err == nil && len(libraries) > 0 {
		needs = libraries[0]
	}
	if needs != "" {
		return firerunner.Errorf(firerunner.Invalid, "look at %s: it is not static, it needs %s", name, needs).
			WithHint("build it with CGO_ENABLED=0; make build does")
	}
	return nil
}
